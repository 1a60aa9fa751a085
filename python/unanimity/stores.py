"""The stores written in Rust: memory, SQLite, files, PostgreSQL and Redis, ready to be handed over.

Thin faces: what they do is in the engine, and no interpreter lock is held while they work. Inside
a service the engine talks to `_native` directly; the methods here serve for use without one, and
to read what is committed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from . import _engine
from ._barrier_drivers import driver_of
from ._bridge import bridge_for_running_loop
from ._exceptions import ConfigError, StoreError
from ._outbox import write_intent
from ._stores import AbortResult, CommitResult, IStorageStore, PrepareRequest, PrepareResult
from ._types import CoordinationRequest

__all__ = [
    "FileStore",
    "MemoryStore",
    "PostgresStore",
    "RedisDurability",
    "RedisStore",
    "SqliteStore",
]

_Answer = TypeVar("_Answer")


async def _ask(question: Callable[[_engine.Bridge, asyncio.Future[_Answer]], None]) -> _Answer:
    """Put a question to a native store and wait for its answer."""
    future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
    question(bridge_for_running_loop(), future)
    return await future


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{what} is {value!r}; give a str that is not empty")
    return value


def _path(value: str | os.PathLike[str], what: str) -> str:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    # An absolute path, so that a later change of the working directory changes nothing.
    return os.path.abspath(_text(path, what))  # noqa: PTH100


class NativeStore(IStorageStore):
    """What the five have in common."""

    _native: _engine._NativeStore

    def __init__(self, native: _engine._NativeStore, name: str) -> None:
        self._native = native
        self.store_name = name

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        """Stage the operations durably and vote.

        Fencing tokens are checked and remembered; a plain int counts as an exclusive lock's.
        """
        answer: tuple[str, str | None] = await _ask(
            lambda bridge, future: self._native.prepare(
                bridge,
                future,
                request.transaction_id,
                request.operations,
                request.timeout_seconds,
                request.fencing_tokens or None,
            )
        )
        return PrepareResult(self.store_name, *self._known(answer))

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Make what was prepared visible."""
        answer: tuple[str, str | None] = await _ask(
            lambda bridge, future: self._native.commit(bridge, future, transaction_id)
        )
        return CommitResult(self.store_name, *self._known(answer))

    async def abort_transaction(self, transaction_id: str) -> AbortResult:
        """Undo what was prepared."""
        answer: tuple[str, str | None] = await _ask(
            lambda bridge, future: self._native.abort(bridge, future, transaction_id)
        )
        return AbortResult(self.store_name, *self._known(answer))

    async def list_prepared_transactions(self) -> list[str]:
        """Name what is prepared and undecided."""
        return await _ask(self._native.list_prepared)

    def _known(self, answer: tuple[str, str | None]) -> tuple[str, str | None]:
        if answer[0] == "UNKNOWN":
            # No word of the vocabulary says this, and no other may be put in its place.
            message = answer[1] or f"whether the store '{self.store_name}' did it is not known"
            raise StoreError(message, store=self.store_name, code="store.unknown", retryable=True)
        return answer

    async def close(self) -> None:
        """Let go of files and connections. What is prepared stays prepared."""
        await asyncio.to_thread(self._native.close)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.store_name!r})"


class MemoryStore(NativeStore):
    """Key-value in memory: put, delete, check. Nothing survives the process."""

    _native: _engine.MemoryStore

    def __init__(self, name: str = "memory") -> None:
        """Make an empty store."""
        super().__init__(_engine.MemoryStore(_text(name, "name")), name)

    async def get(self, key: str) -> Any:
        """Read the committed value of a key, None where there is none."""
        return await _ask(lambda bridge, future: self._native.get(bridge, future, key))


class FileStore(NativeStore):
    """Key-value over a folder of files: a key is a path below it, a value text or bytes."""

    _native: _engine.FileStore

    def __init__(self, root: str | os.PathLike[str], name: str = "files") -> None:
        """Use (and make, where it is missing) the folder `root`."""
        super().__init__(_engine.FileStore(_path(root, "root"), _text(name, "name")), name)

    async def get(self, key: str) -> bytes | None:
        """Read a committed file, None where there is none."""
        return await _ask(lambda bridge, future: self._native.get(bridge, future, key))

    async def get_text(self, key: str, encoding: str = "utf-8") -> str | None:
        """Read a committed file as text, None where there is none."""
        content = await self.get(key)
        return None if content is None else content.decode(encoding)


class SqliteStore(NativeStore):
    """SQL over one SQLite file: execute, with `?` for parameters."""

    _native: _engine.SqliteStore

    def __init__(self, path: str | os.PathLike[str], name: str = "sqlite") -> None:
        """Use (and make, where it is missing) the file `path`."""
        super().__init__(_engine.SqliteStore(_path(path, "path"), _text(name, "name")), name)

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Read committed rows, each as a dict by column."""
        return await _ask(
            lambda bridge, future: self._native.fetch(bridge, future, statement, list(parameters))
        )


class PostgresStore(NativeStore):
    """SQL over one PostgreSQL database, by its own PREPARE TRANSACTION; `$1` for parameters."""

    _native: _engine.PostgresStore

    def __init__(
        self,
        dsn: str,
        name: str = "postgres",
        min_connections: int = 1,
        max_connections: int = 20,
        *,
        serves_outbox: bool = False,
    ) -> None:
        """Connect when first used; `dsn` is a URL or a list of key=value.

        With `serves_outbox` a service that has this store carries out what is written into the
        table `unanimity_outbox` of its database; see `outbox`.
        """
        if not 0 <= min_connections <= max_connections or max_connections < 1:
            raise ConfigError(
                f"min_connections is {min_connections} and max_connections {max_connections}; "
                "give 0 <= min_connections <= max_connections, and at least one connection"
            )
        native = _engine.PostgresStore(
            _text(dsn, "dsn"),
            _text(name, "name"),
            min_connections,
            max_connections,
            bool(serves_outbox),
        )
        super().__init__(native, name)

    async def outbox(self, connection: Any, request: CoordinationRequest) -> None:
        """Write a request into the outbox, in the open transaction of your own connection.

        When that is committed a service whose store `serves_outbox` carries the request out, once;
        when it is rolled back nothing happens. `connection` is an async one of asyncpg or psycopg,
        to this store's database.
        """
        driver = driver_of(connection)
        driver.check(is_async=True)
        await driver.drive_async(write_intent(request))

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Read committed rows, each as a dict by column."""
        return await _ask(
            lambda bridge, future: self._native.fetch(bridge, future, statement, list(parameters))
        )


@dataclass(frozen=True)
class RedisDurability:
    """What a Redis server's answers are worth when its machine crashes."""

    level: str
    """"always", "waited", "every_second", "system", "snapshots" or "unknown"."""
    is_durable: bool
    """Whether what was voted or acknowledged is on the server's disk."""
    explanation: str
    """What the level means, and how to do better."""


class RedisStore(NativeStore):
    """Key-value over one Redis server: put (with `ttl_seconds`), delete, check.

    A value is a str, bytes or an int, and stands in Redis as any other client would have put it.
    """

    _native: _engine.RedisStore

    def __init__(
        self,
        url: str,
        name: str = "redis",
        *,
        prefix: str = "",
        waits_for_disk: bool = True,
    ) -> None:
        """Connect when first used; `url` is redis://, rediss:// or redis+unix://.

        Every key of the data begins with `prefix`. Where the server syncs its append-only file by
        itself, once a second, every answer waits for that (WAITAOF, Redis 7.2); without
        `waits_for_disk` none does, and what was promised last may be forgotten in a crash.
        """
        if not isinstance(prefix, str):
            raise ConfigError(f"prefix is {prefix!r}; give a str")
        native = _engine.RedisStore(
            _text(url, "url"), _text(name, "name"), prefix, bool(waits_for_disk)
        )
        super().__init__(native, name)

    async def get(self, key: str) -> bytes | None:
        """Read the committed value of a key, None where there is none."""
        return await _ask(lambda bridge, future: self._native.get(bridge, future, key))

    async def get_text(self, key: str, encoding: str = "utf-8") -> str | None:
        """Read the committed value of a key as text, None where there is none."""
        value = await self.get(key)
        return None if value is None else value.decode(encoding)

    async def durability(self) -> RedisDurability:
        """Say what the server's answers are worth, as its settings were when it was connected."""
        return RedisDurability(*await asyncio.to_thread(self._native.durability))
