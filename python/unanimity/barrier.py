"""A barrier for steps in a database of your own: done once, undone once, in your own transaction.

A store's operation is asked for again when its answer got lost, and its undoing can come first.
`barrier` writes down in the table `unanimity_barrier`, inside your open transaction, what of an
operation was done or undone, and tells whether this is the first time. See `barrier.md`.

It knows no driver: any connection or cursor of sqlite3 and psycopg, and any connection of asyncpg,
is taken by what it can do. Invariants: nothing here commits, rolls back or begins a transaction;
the row is durable exactly when what you did in the transaction is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator
from types import TracebackType
from typing import Any, Literal, Protocol

from ._barrier_drivers import Driver, Query, driver_of
from ._exceptions import Permanent, UnanimityError

__all__ = ["AlreadyCompensated", "Barrier", "First", "barrier"]

Work = Literal["execute", "compensate"]

_RESULT_CHARACTERS_MAX = 1 << 20
_PURGE_EVERY = 256
_PURGED_MAX = 256
_DAYS_KEPT = 30

_SQLITE_NOW = "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'"
_passed = itertools.count(1)


class AlreadyCompensated(Permanent):
    """The operation came after its undoing: it must have no effect, nobody would undo it."""

    default_code = "operation.already_compensated"


class Named(Protocol):
    """What is read of an `OperationRequest`."""

    transaction_id: str
    operation_id: str


class First:
    """Whether this is the first time, as its truth value, and the first time's result."""

    def __init__(self, is_first: bool, result: str | None) -> None:
        self._is_first = is_first
        self._json = result

    def __bool__(self) -> bool:
        return self._is_first

    def __repr__(self) -> str:
        return f"First({self._is_first}, result={self.result!r})"

    @property
    def result(self) -> Any:
        """What the first time gave; None until it is set. Set it to anything that JSON can say."""
        return None if self._json is None else json.loads(self._json)

    @result.setter
    def result(self, value: Any) -> None:
        if not self._is_first:
            raise RuntimeError("the result was stored by the first time; set it only `if first:`")
        text = json.dumps(value)
        if len(text) > _RESULT_CHARACTERS_MAX:
            raise ValueError(
                f"the result has {len(text)} characters as JSON, and {_RESULT_CHARACTERS_MAX} are "
                "the most; store less of it, such as the keys alone"
            )
        self._json = text


class Barrier:
    """What `barrier` gives: `with` for a plain connection, `async with` for an async one."""

    def __init__(self, connection: Any, request: Named, work: Work, scope: str) -> None:
        if work not in ("execute", "compensate"):
            raise ValueError(f'work is {work!r}; give "execute" or "compensate"')
        self._driver: Driver = driver_of(connection)
        self._names = ("", scope, str(request.transaction_id), str(request.operation_id))
        self._work = work
        self._first: First | None = None
        self._written: str | None = None

    def __enter__(self) -> First:
        self._driver.check(is_async=False)
        return self._entered(self._driver.drive(self._enter()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._driver.drive(self._leave())

    async def __aenter__(self) -> First:
        self._driver.check(is_async=True)
        return self._entered(await self._driver.drive_async(self._enter()))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self._driver.drive_async(self._leave())

    def _entered(self, found: tuple[bool, str | None]) -> First:
        self._first = First(*found)
        self._written = found[1]
        return self._first

    def _enter(self) -> Generator[Query, Any, tuple[bool, str | None]]:
        """Claim the row, or find what stands. Two at once go one after the other by its key."""
        yield from _create(self._driver.is_postgres)
        if next(_passed) % _PURGE_EVERY == 0:
            yield _purge(self._driver.is_postgres)
        if self._work == "execute":
            if (yield self._insert("execute", "null")):
                return True, "null"
            standing = yield from self._standing()
            if standing["execute"] is None or "compensate" in standing:
                raise AlreadyCompensated("already compensated")
            return False, standing["execute"]
        if (yield self._insert("execute", None)):
            # It was never done, so there is nothing to undo, and it is refused if it comes.
            yield self._insert("compensate", "null")
            return False, "null"
        if (yield self._insert("compensate", "null")):
            return True, "null"
        standing = yield from self._standing()
        return False, standing["compensate"]

    def _leave(self) -> Generator[Query, Any, None]:
        """Write the result, if one was set."""
        if self._first is None or not self._first or self._first._json == self._written:
            return
        changed = yield Query(
            "UPDATE unanimity_barrier SET result = ? WHERE cluster_id = ? AND store_name = ? "
            "AND coordination_id = ? AND operation_id = ? AND work = ?",
            (self._first._json, *self._names, self._work),
        )
        if changed != 1:
            raise UnanimityError(
                "the barrier's row is gone: the transaction in which it was written has ended",
                hint="leave the barrier before you commit or roll back",
            )

    def _insert(self, work: Work, result: str | None) -> Query:
        now = "" if self._driver.is_postgres else ", recorded_at"
        value = "" if self._driver.is_postgres else f", {_SQLITE_NOW})"
        return Query(
            "INSERT INTO unanimity_barrier (cluster_id, store_name, coordination_id, operation_id, "
            f"work, result{now}) VALUES (?, ?, ?, ?, ?, ?{value}) ON CONFLICT DO NOTHING",
            (*self._names, work, result),
        )

    def _standing(self) -> Generator[Query, Any, dict[str, str | None]]:
        rows = yield Query(
            "SELECT work, result FROM unanimity_barrier WHERE cluster_id = ? AND store_name = ? "
            "AND coordination_id = ? AND operation_id = ?",
            self._names,
            reads=True,
        )
        return {row[0]: row[1] for row in rows}


def barrier(connection: Any, request: Named, work: Work = "execute", *, scope: str = "") -> Barrier:
    """Tell whether this work is done for the first time, and remember it in your transaction.

        with connection:                                    # sqlite3: commits or rolls back
            with barrier(connection, request) as first:
                if first:
                    connection.execute("UPDATE ...")
                    first.result = {"charged": 5}
        return first.result

    `connection` is a connection or cursor of sqlite3 or psycopg, or a connection of asyncpg, with
    an open transaction; async ones want `async with`. `request` is the `OperationRequest` of the
    store. In the method that undoes, pass `work="compensate"`: it is false for an operation that
    was never done. `scope` keeps apart two services that share a database and use the same ids.

    Entering raises `AlreadyCompensated` for an operation that comes after its undoing, and
    `RuntimeError` where no transaction is open. What is raised inside must leave the transaction
    too, so that it is rolled back with the row.
    """
    return Barrier(connection, request, work, scope)


_SQLITE_TABLE = """
CREATE TABLE IF NOT EXISTS unanimity_barrier (
    cluster_id TEXT NOT NULL,
    store_name TEXT NOT NULL,
    coordination_id TEXT NOT NULL,
    operation_id TEXT NOT NULL,
    work TEXT NOT NULL CHECK (work IN ('execute', 'compensate')),
    result TEXT,
    recorded_at TEXT NOT NULL,
    PRIMARY KEY (cluster_id, store_name, coordination_id, operation_id, work)
)"""

# The native stores make the same table; whoever comes first makes it for all.
_POSTGRES_TABLE = """
CREATE TABLE IF NOT EXISTS unanimity_barrier (
    cluster_id text COLLATE "C" NOT NULL,
    store_name text COLLATE "C" NOT NULL,
    coordination_id text COLLATE "C" NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    work text COLLATE "C" NOT NULL CHECK (work IN ('execute', 'compensate')),
    result text,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster_id, store_name, coordination_id, operation_id, work)
)"""
_POSTGRES_INDEX = """
CREATE INDEX IF NOT EXISTS unanimity_barrier_recorded_at
    ON unanimity_barrier USING brin (recorded_at)"""


def _create(is_postgres: bool) -> Generator[Query, Any, None]:
    """Make the table where it is not."""
    if not is_postgres:
        yield Query(_SQLITE_TABLE)
        return
    rows = yield Query("SELECT to_regclass('unanimity_barrier') IS NOT NULL", reads=True)
    if rows[0][0]:
        return
    # Two that create it at once would fail each other; the native stores take the same lock.
    yield Query("SELECT pg_advisory_xact_lock(hashtext('unanimity_prepared'))", reads=True)
    yield Query(_POSTGRES_TABLE)
    yield Query(_POSTGRES_INDEX)


def _purge(is_postgres: bool) -> Query:
    """Remove a portion of the rows that are old."""
    if is_postgres:
        return Query(
            "DELETE FROM unanimity_barrier WHERE ctid = ANY (ARRAY (SELECT ctid "
            f"FROM unanimity_barrier WHERE recorded_at < now() - interval '{_DAYS_KEPT} days' "
            f"LIMIT {_PURGED_MAX} FOR UPDATE SKIP LOCKED))"
        )
    # Rows stand in the order in which they came, so those at the front are the oldest.
    return Query(
        "DELETE FROM unanimity_barrier WHERE rowid IN (SELECT rowid FROM unanimity_barrier "
        f"ORDER BY rowid LIMIT {_PURGED_MAX}) "
        f"AND recorded_at < {_SQLITE_NOW}, '-{_DAYS_KEPT} days')"
    )
