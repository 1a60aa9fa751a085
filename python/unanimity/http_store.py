"""A store in another process, reached over HTTP, and the application that serves it there.

    stores = {"orders": HttpStore("http://127.0.0.1:8000/orders", name="orders", token=TOKEN)}

    app = store_app(SqliteStore("orders.db"), token=TOKEN)      # there: uvicorn orders:app

Not a service: the decision stays here, the other process only takes part. Invariants: an answer
that did not come is told as unknown, by raising, and never as a vote or an end; a question that is
sent again carries the same key.
"""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlsplit

from ._exceptions import ConfigError, StoreError
from ._http_protocol import BODY_BYTES_MAX, KEY_HEADER, key_of, prepare_body, read_answer
from ._store_app import StoreApp, store_app
from ._stores import (
    AbortResult,
    CommitResult,
    IStorageStore,
    OperationRequest,
    OperationResult,
    PrepareRequest,
    PrepareResult,
)

__all__ = ["HttpStore", "StoreApp", "store_app"]

_PAUSE_SECONDS = 0.05
_PAUSE_SECONDS_MAX = 1.0
# What the way there says, not the store: 500 is what the store raised.
_RETRIED = (429, 502, 503, 504)


class HttpStore(IStorageStore):
    """Asks a store that another process serves with `store_app`.

    `url` is where that app stands. `token` is sent as a bearer token. One question may take its
    own timeout, at most `timeout_seconds`; within it, what does not come through is sent again,
    with growing pauses. At most `max_connections` questions are out at once, others wait in order.
    """

    def __init__(
        self,
        url: str,
        name: str = "http",
        *,
        token: str | None = None,
        timeout_seconds: float = 30.0,
        max_connections: int = 8,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Connect when first used; `context` is for https with certificates of your own."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https"):
            raise ConfigError(f"url is {url!r}; give http://host:port/path or https://...")
        if max_connections < 1 or timeout_seconds <= 0:
            raise ConfigError("max_connections and timeout_seconds must be positive")
        self.store_name = name
        self._url = url.rstrip("/")
        self._host, self._port, self._path = host, port, parts.path.rstrip("/")
        self._context = context
        if parts.scheme == "https" and context is None:
            self._context = ssl.create_default_context()
        self._timeout = timeout_seconds
        self._headers = {"content-type": "application/json"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._threads = ThreadPoolExecutor(max_connections, "unanimity-http")

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        """Ask for the vote; raises StoreError where none came."""
        found: PrepareResult = await self._ask(
            "prepare", prepare_body(request), request.timeout_seconds
        )
        return found

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Tell it to commit; raises StoreError where no answer came."""
        found: CommitResult = await self._ask("commit", {"transaction_id": transaction_id})
        return found

    async def abort_transaction(self, transaction_id: str) -> AbortResult:
        """Tell it to abort; raises StoreError where no answer came."""
        found: AbortResult = await self._ask("abort", {"transaction_id": transaction_id})
        return found

    async def list_prepared_transactions(self) -> list[str]:
        """Name what is prepared there; nothing where that store cannot tell."""
        found: list[str] = await self._ask("list", {})
        return found

    async def execute_operation(self, request: OperationRequest) -> OperationResult:
        """Ask for one operation; raises StoreError where no answer came."""
        found: OperationResult = await self._ask("execute", vars(request), request.timeout_seconds)
        return found

    async def compensate_operation(self, request: OperationRequest) -> OperationResult:
        """Ask to undo one operation; raises StoreError where no answer came."""
        found: OperationResult = await self._ask(
            "compensate", vars(request), request.timeout_seconds
        )
        return found

    async def close(self) -> None:
        """Let go of the threads; what is prepared there stays prepared."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, what: str, body: dict[str, Any], seconds: float | None = None) -> Any:
        limit = self._timeout if seconds is None else min(seconds, self._timeout)
        ask = functools.partial(self._ask_in_time, what, body, time.monotonic() + limit)
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def _ask_in_time(self, what: str, body: dict[str, Any], deadline: float) -> Any:
        """Send the question until an answer comes or the time is over."""
        try:
            sent = json.dumps(body).encode()
        except (TypeError, ValueError) as error:
            return self._refused(what, f"the operations cannot be sent as JSON: {error}")
        key, pause, trouble = quote(key_of(what, body), safe=":"), _PAUSE_SECONDS, "no time is left"
        while (left := deadline - time.monotonic()) > 0:
            try:
                status, text = self._send(what, sent, key, left)
            except (OSError, http.client.HTTPException) as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if status == 200:
                    return self._read(what, text)
                trouble = f"HTTP {status}: {text[:200].decode(errors='replace')}"
                if status == 501:
                    return self._lacking(what, trouble)
                if status not in _RETRIED:
                    break
            left = deadline - time.monotonic()
            if left <= pause:
                break
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)
        raise StoreError(
            f"whether the store '{self.store_name}' at {self._url} did {what} is not known: "
            f"{trouble}",
            store=self.store_name,
            code="store.unknown",
            retryable=True,
            hint="see that its process runs and that the token is the same on both sides",
        )

    def _send(self, what: str, body: bytes, key: str, seconds: float) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection
        if self._context is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        else:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=seconds, context=self._context
            )
        try:
            headers = {**self._headers, KEY_HEADER: key}
            connection.request("POST", f"{self._path}/{what}", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(BODY_BYTES_MAX)
        finally:
            connection.close()

    def _read(self, what: str, text: bytes) -> Any:
        try:
            return read_answer(what, self.store_name, json.loads(text))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{self._url}/{what} answers what is no answer: {text[:200]!r}",
                store=self.store_name,
                code="store.unknown",
                hint="is there a `store_app` at this address?",
            ) from error

    def _lacking(self, what: str, trouble: str) -> Any:
        """The store behind the app has no such method: nothing was done."""
        return [] if what == "list" else self._refused(what, trouble)

    def _refused(self, what: str, words: str) -> Any:
        """Nothing was done, and that is certain."""
        if what == "prepare":
            return PrepareResult(self.store_name, "ABORT", words)
        if what in ("execute", "compensate"):
            return OperationResult(self.store_name, "FAILED", None, words, retryable=False)
        raise StoreError(words, store=self.store_name, code="store.unknown")

    def __repr__(self) -> str:
        return f"HttpStore({self._url!r}, name={self.store_name!r})"
