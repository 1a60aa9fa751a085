"""Connections of asyncpg, psycopg and SQLAlchemy behind one face, for a transaction that decides.

Not a database layer: it begins, runs the few queries of `_enlist`, and commits or rolls back. Plain
connections work in a thread. Invariant: nothing here imports a driver before a connection of it was
given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any


class OpenConnection:
    """A connection with, from `begin` on, one transaction of ours."""

    def __init__(self, connection: Any) -> None:
        """Hold the connection."""
        self._connection = connection

    def check_idle(self) -> None:
        """Raise where a transaction is open already, or cannot be opened."""
        if self._is_busy():
            raise RuntimeError(
                "a transaction is open on this connection already; enlist it first, then use it, "
                "and let service.transaction() commit"
            )

    async def begin(self) -> None:
        """Begin, where the driver does not do that by itself with the first statement."""

    async def flush(self) -> None:
        """Send what was not sent yet."""

    async def row(self, text: str) -> Sequence[Any]:
        """Run a query without parameters, and give its one row."""
        raise NotImplementedError

    async def run(self, text: str, *parameters: str) -> None:
        """Run a statement with `?` for its parameters."""
        raise NotImplementedError

    async def commit(self) -> None:
        """Commit."""
        await self._do(self._connection.commit)

    async def roll_back(self) -> None:
        """Roll back."""
        await self._do(self._connection.rollback)

    async def close(self) -> None:
        """Close the connection."""
        await self._do(self._connection.close)

    def _is_busy(self) -> bool:
        raise NotImplementedError

    async def _do(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method, in a thread where it is a plain one."""
        if self._is_async():
            answer: Awaitable[Any] = method(*arguments)
            return await answer
        return await asyncio.to_thread(method, *arguments)

    def _is_async(self) -> bool:
        return hasattr(type(self._connection), "__aenter__")


class _Asyncpg(OpenConnection):
    def _is_busy(self) -> bool:
        return bool(self._connection.is_in_transaction())

    def _is_async(self) -> bool:
        return True

    async def begin(self) -> None:
        self._transaction = self._connection.transaction()
        await self._transaction.start()

    async def row(self, text: str) -> Sequence[Any]:
        return tuple(await self._connection.fetchrow(text))

    async def run(self, text: str, *parameters: str) -> None:
        first, *rest = text.split("?")
        numbered = first + "".join(f"${index}{part}" for index, part in enumerate(rest, start=1))
        await self._connection.execute(numbered, *parameters)

    async def commit(self) -> None:
        await self._transaction.commit()

    async def roll_back(self) -> None:
        await self._transaction.rollback()

    async def close(self) -> None:
        # A polite close would wait for what is under way.
        self._connection.terminate()


class _Psycopg(OpenConnection):
    def check_idle(self) -> None:
        if self._connection.autocommit:
            raise RuntimeError(
                "this connection is in autocommit, so every statement is its own transaction; "
                "enlist one without it"
            )
        super().check_idle()

    def _is_busy(self) -> bool:
        # 0 is idle.
        return bool(self._connection.info.transaction_status != 0)

    def _cursor(self) -> Any:
        # Rows are tuples here, whatever the connection's own rows are.
        return self._connection.cursor(row_factory=lambda _: tuple)

    async def row(self, text: str) -> Sequence[Any]:
        cursor = self._cursor()
        await self._do(cursor.execute, text)
        return tuple(await self._do(cursor.fetchone))

    async def run(self, text: str, *parameters: str) -> None:
        await self._do(self._cursor().execute, text.replace("?", "%s"), parameters or None)


class _SqlAlchemy(OpenConnection):
    def _is_busy(self) -> bool:
        return bool(self._connection.in_transaction())

    def _is_async(self) -> bool:
        return type(self._connection).__name__.startswith(("Async", "async"))

    async def flush(self) -> None:
        # A session has it, and sends what was only changed in memory.
        if hasattr(self._connection, "flush"):
            await self._do(self._connection.flush)

    async def row(self, text: str) -> Sequence[Any]:
        answer = await self._execute(text, {})
        return tuple(answer.fetchone())

    async def run(self, text: str, *parameters: str) -> None:
        first, *rest = text.split("?")
        named = first + "".join(f":p{index}{part}" for index, part in enumerate(rest))
        await self._execute(named, {f"p{index}": value for index, value in enumerate(parameters)})

    async def _execute(self, statement: str, parameters: dict[str, str]) -> Any:
        from sqlalchemy import text

        # What looks like a parameter in a cast is none.
        escaped = text(statement.replace("::", r"\:\:"))
        return await self._do(self._connection.execute, escaped, parameters)


def connection_of(connection: Any) -> OpenConnection:
    """The face for a connection, or an SQLAlchemy session; TypeError for anything else."""
    if hasattr(connection, "is_in_transaction") and hasattr(connection, "fetchrow"):
        return _Asyncpg(connection)
    if hasattr(getattr(connection, "info", None), "transaction_status"):
        return _Psycopg(connection)
    if type(connection).__module__.startswith("sqlalchemy."):
        return _SqlAlchemy(connection)
    raise TypeError(
        f"enlist() does not know a {type(connection).__module__}.{type(connection).__qualname__}; "
        "give a connection of asyncpg or psycopg, or a connection or session of SQLAlchemy"
    )
