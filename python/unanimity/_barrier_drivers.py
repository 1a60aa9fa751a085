"""Connections of sqlite3, psycopg and asyncpg behind one face, by what they can do.

Not a database layer: it runs the few queries of `barrier`, inside whatever transaction is open.
Invariant: nothing here commits, rolls back, begins, or imports a driver.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Query:
    """One statement with `?` for its parameters; it answers with its rows, or with their count."""

    text: str
    parameters: tuple[object, ...] = ()
    reads: bool = False


class Driver:
    """A connection. `check` says what is wrong with using it here."""

    is_postgres = False
    is_async = False

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def check(self, is_async: bool) -> None:
        """Raise where the wrong `with` is used, or no transaction is open."""
        if is_async != self.is_async:
            right, wrong = ("async with", "with") if self.is_async else ("with", "async with")
            name = type(self._connection).__qualname__
            raise TypeError(f"a {name} needs '{right} barrier(...)', not '{wrong}'")
        if not self._has_transaction():
            raise RuntimeError(
                "no transaction is open on this connection; the barrier's row must be committed "
                "with your own changes, so begin one around it"
            )

    def drive(self, queries: Generator[Query, Any, _Answer]) -> _Answer:
        """Run the queries one after the other."""
        answer: Any = None
        while True:
            try:
                query = queries.send(answer)
            except StopIteration as end:
                result: _Answer = end.value
                return result
            answer = self._run(query)

    async def drive_async(self, queries: Generator[Query, Any, _Answer]) -> _Answer:
        """Run the queries one after the other."""
        answer: Any = None
        while True:
            try:
                query = queries.send(answer)
            except StopIteration as end:
                result: _Answer = end.value
                return result
            answer = await self._run_async(query)

    def _has_transaction(self) -> bool:
        raise NotImplementedError

    def _run(self, query: Query) -> Any:
        raise NotImplementedError

    async def _run_async(self, query: Query) -> Any:
        raise NotImplementedError


class _Sqlite(Driver):
    def _has_transaction(self) -> bool:
        # Unless it was told not to, sqlite3 begins one by itself before the first change.
        connection = self._connection
        begins = connection.isolation_level is not None
        return connection.in_transaction or (
            begins and getattr(connection, "autocommit", None) is not True
        )

    def _run(self, query: Query) -> Any:
        cursor = self._connection.cursor()
        cursor.row_factory = None
        cursor.execute(query.text, query.parameters)
        return cursor.fetchall() if query.reads else cursor.rowcount


class _Psycopg(Driver):
    is_postgres = True

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.is_async = hasattr(type(connection), "__aenter__")

    def _has_transaction(self) -> bool:
        # 0 is idle. Unless it is in autocommit, psycopg begins one before the first statement.
        return self._connection.info.transaction_status != 0 or not self._connection.autocommit

    def _cursor(self) -> Any:
        # Rows are tuples here, whatever the connection's own rows are.
        return self._connection.cursor(row_factory=lambda _: tuple)

    def _run(self, query: Query) -> Any:
        cursor = self._cursor()
        cursor.execute(query.text.replace("?", "%s"), query.parameters or None)
        return cursor.fetchall() if query.reads else cursor.rowcount

    async def _run_async(self, query: Query) -> Any:
        cursor = self._cursor()
        await cursor.execute(query.text.replace("?", "%s"), query.parameters or None)
        return await cursor.fetchall() if query.reads else cursor.rowcount


class _Asyncpg(Driver):
    is_postgres = True
    is_async = True

    def _has_transaction(self) -> bool:
        return bool(self._connection.is_in_transaction())

    async def _run_async(self, query: Query) -> Any:
        first, *rest = query.text.split("?")
        text = first + "".join(f"${index}{part}" for index, part in enumerate(rest, start=1))
        if query.reads:
            return await self._connection.fetch(text, *query.parameters)
        status = await self._connection.execute(text, *query.parameters)
        # Such as "INSERT 0 1"; a CREATE has no number.
        last = status.rpartition(" ")[2]
        return int(last) if last.isdigit() else 0


def driver_of(connection: Any) -> Driver:
    """The driver for a connection, or for a cursor's connection."""
    if hasattr(connection, "is_in_transaction") and hasattr(connection, "fetch"):
        return _Asyncpg(connection)
    for one in (connection, getattr(connection, "connection", None)):
        if hasattr(one, "in_transaction") and hasattr(one, "isolation_level"):
            if hasattr(type(one), "__aenter__"):
                break
            return _Sqlite(one)
        if hasattr(getattr(one, "info", None), "transaction_status"):
            return _Psycopg(one)
    raise TypeError(
        f"barrier() does not know a {type(connection).__module__}.{type(connection).__qualname__}; "
        "give a connection or cursor of sqlite3 or psycopg, or a connection of asyncpg"
    )
