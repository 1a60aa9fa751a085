"""A store as a web application: what an `HttpStore` in another process asks.

    app = store_app(SqliteStore("orders.db", name="orders"), token=TOKEN)

The application speaks ASGI, and any server of that runs it: `uvicorn orders:app`. It stands under
a path of its own as it is, mounted into another application too. Not a service: nobody coordinates
from here. Invariants: a question that comes twice at once is asked of the store once; what the
store raises is answered with 500, which says nothing of what was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import inspect
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from . import _bridge
from ._exceptions import ConfigError, Permanent
from ._http_protocol import BODY_BYTES_MAX, METHODS, answer_body, argument_of, key_of
from ._stores import OperationResult, is_async, own_method

__all__ = ["StoreApp", "store_app"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_WAITING_MAX = 1024


def store_app(store: Any, token: str | None = None) -> StoreApp:
    """Make the application that serves a store, any object with its methods.

    With a `token` only who sends it as a bearer token is answered. Without one everybody is: bind
    the server to an address that only your own services reach.
    """
    if not any(own_method(store, method) for method in METHODS.values()):
        raise ConfigError(f"{store!r} has none of the methods of a store: {list(METHODS.values())}")
    return StoreApp(store, token)


class Refusal(Exception):
    """A question that is not asked of the store, with its HTTP status."""

    def __init__(self, status: int, words: str) -> None:
        """Say why."""
        super().__init__(words)
        self.status = status


class StoreApp:
    """The application; `store_app` makes it."""

    def __init__(self, store: Any, token: str | None) -> None:
        """Serve the store."""
        self.store = store
        self._token = token
        # Questions that are being asked, by their key: who sends one again waits for its answer.
        self._under_way: OrderedDict[str, asyncio.Future[tuple[int, dict[str, Any]]]] = (
            OrderedDict()
        )

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            status, body = await self._answer(scope, receive)
            text = json.dumps(body).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(text)).encode()),
            ]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": text})
        else:
            raise RuntimeError(f"a store answers http, not {scope['type']}")

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                close = own_method(self.store, "close")
                if close is not None:
                    await _called(close)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _answer(self, scope: Message, receive: Receive) -> tuple[int, dict[str, Any]]:
        try:
            self._check_token(scope)
            what = self._method_of(scope)
            body = await _body_of(receive)
        except Refusal as refusal:
            return refusal.status, {"error": str(refusal)}
        if what == "list":
            return await self._ask(what, body)
        return await self._once(what, body)

    def _check_token(self, scope: Message) -> None:
        if self._token is None:
            return
        sent = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(sent, f"Bearer {self._token}".encode()):
            raise Refusal(401, "the token is missing or wrong")

    def _method_of(self, scope: Message) -> str:
        what = str(scope["path"]).rstrip("/").rpartition("/")[2]
        if what not in METHODS:
            raise Refusal(404, f"there is no {what!r}; there are {', '.join(METHODS)}")
        if scope["method"] != "POST":
            raise Refusal(405, "send it with POST")
        return what

    async def _once(self, what: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Ask, or wait for the answer to the same question that is being asked."""
        key = key_of(what, body)
        known = self._under_way.get(key)
        if known is None:
            if len(self._under_way) >= _WAITING_MAX:
                return 503, {"error": f"{_WAITING_MAX} questions are under way; come again"}
            known = asyncio.ensure_future(self._ask(what, body))
            self._under_way[key] = known
            known.add_done_callback(lambda _: self._under_way.pop(key, None))
        # One who goes away takes nothing from the others, nor from the store.
        return await asyncio.shield(known)

    async def _ask(self, what: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        method = own_method(self.store, METHODS[what])
        if method is None:
            return 501, {"error": f"the store has no {METHODS[what]}()"}
        try:
            arguments = argument_of(what, body)
        except (KeyError, TypeError, ValueError) as error:
            return 400, {"error": f"this is no question to {what}: {error!r}"}
        try:
            answer = answer_body(what, await _called(method, *arguments))
            json.dumps(answer)
        except Permanent as error:
            name = str(getattr(self.store, "store_name", ""))
            failed = OperationResult(name, "FAILED", None, str(error), retryable=False)
            if what in ("execute", "compensate"):
                return 200, answer_body(what, failed)
            return 500, {"error": str(error)}
        except Exception as error:
            return 500, {"error": f"{type(error).__name__}: {error}"}
        return 200, answer


async def _body_of(receive: Receive) -> dict[str, Any]:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the question was cut off")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES_MAX:
            raise Refusal(413, f"a question has at most {BODY_BYTES_MAX} bytes")
        if not message.get("more_body", False):
            break
    with contextlib.suppress(ValueError):
        body = json.loads(b"".join(parts))
        if isinstance(body, dict):
            return body
    raise Refusal(400, "a question is a JSON object")


async def _called(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method as a service does: plain ones in threads."""
    if not is_async(method):
        return await _bridge.in_thread(method, *arguments)
    answer = method(*arguments)
    return await answer if inspect.isawaitable(answer) else answer
