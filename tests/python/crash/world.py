"""The stores of one run, the change that every transaction makes, and what the stores show of it.

Nothing here decides what is right. Invariant: a transaction's fact has the same name in every
store, so that "all or none" is an equality of sets.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crash.index import ArmedIndex, BlindIndex, ExclusiveIndex, HastyIndex, RefusingIndex
from crash.shared import SharedIndex
from redis_server import ask
from unanimity import (
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    PostgresLockManager,
)
from unanimity.stores import FileStore, PostgresStore, RedisStore, SqliteStore

STORES = ("rows", "files", "postgres", "redis", "index")
INDEXES: dict[str, Callable[[Path], Any]] = {
    "index": ArmedIndex,
    "blind": BlindIndex,
    "hasty": HastyIndex,
    "exclusive": ExclusiveIndex,
    "refusing": RefusingIndex,
    "shared": SharedIndex,
}
REDIS = os.environ.get("UNANIMITY_TEST_REDIS", "")
"""The URL of a Redis database; without one there is no such store."""
IN_POSTGRES = os.environ.get("UNANIMITY_TEST_JOURNAL") == "postgres"
TIMEOUTS = {"prepare_phase_timeout_seconds": 20, "commit_phase_timeout_seconds": 20}


@dataclass(frozen=True)
class World:
    """One run's folder, its table in PostgreSQL, and which Python store it has."""

    folder: Path
    dsn: str
    table: str
    index: str = "index"
    level: str = "session"
    """The consistency level; for "strong", locks come from the same PostgreSQL database."""

    @classmethod
    def from_arguments(cls, arguments: list[str]) -> World:
        """As `arguments()` gave it."""
        folder, dsn, table, index, level = arguments
        return cls(Path(folder), dsn, table, index, level)

    def arguments(self) -> list[str]:
        """For the command line of a child."""
        return [str(self.folder), self.dsn, self.table, self.index, self.level]

    @property
    def acknowledged(self) -> Path:
        """Where a child writes what it was told."""
        return self.folder / "acknowledged"

    @property
    def journal(self) -> str:
        """The journal of all processes of this run; the environment says where it stands."""
        return self.dsn if IN_POSTGRES else str(self.folder / "journal.db")

    def make(self) -> None:
        """Make the folder and the SQLite table; the one in PostgreSQL is the test's to make."""
        self.folder.mkdir(parents=True)
        with sqlite3.connect(self.folder / "rows.db") as connection:
            connection.execute("CREATE TABLE facts (name TEXT PRIMARY KEY)")
        connection.close()

    @property
    def names(self) -> list[str]:
        """The names of the stores."""
        return [name for name in STORES if REDIS or name != "redis"]

    def stores(self) -> dict[str, Any]:
        """Open them."""
        made: dict[str, Any] = {
            "rows": SqliteStore(self.folder / "rows.db"),
            "files": FileStore(self.folder / "files"),
            "postgres": PostgresStore(self.dsn, max_connections=4),
            "index": INDEXES[self.index](self.folder / "index.log"),
        }
        if REDIS:
            # Its keys are told from those of other runs by the table's name.
            made["redis"] = RedisStore(REDIS, prefix=f"{self.table}:")
        return made

    @asynccontextmanager
    async def lock_manager(self) -> AsyncIterator[PostgresLockManager | None]:
        """Make one, if locks are taken, which gives up soon on a process that was killed."""
        if self.level != "strong":
            yield None
            return
        async with PostgresLockManager(self.dsn, session_timeout_ms=1000) as manager:
            yield manager

    def service(self, stores: dict[str, Any], **more: Any) -> CoordinationService:
        """Make a service on the journal."""
        more.setdefault("config", {"timeouts": TIMEOUTS})
        return CoordinationService(stores, journal=self.journal, **more)

    def request(self, name: str, refuser: str = "") -> CoordinationRequest:
        """Add the fact `name` to every store; `refuser` finds something wrong and votes ABORT."""
        operations: list[dict[str, Any]] = [
            {
                "store": "rows",
                "type": "execute",
                "statement": "INSERT INTO facts VALUES (?)",
                "parameters": [name],
                "expect_rows": 2 if refuser == "rows" else 1,
            },
            {"store": "files", "type": "put", "key": f"a/{name}", "value": name},
            {"store": "files", "type": "put", "key": f"b/{name}", "value": name * 100},
            {
                "store": "postgres",
                "type": "execute",
                "statement": f"INSERT INTO {self.table} VALUES ($1)",
                "parameters": [name],
                "expect_rows": 2 if refuser == "postgres" else 1,
            },
            {"store": "index", "type": "index", "key": name, "entry": {"words": [name]}},
        ]
        if REDIS:
            operations.append({"store": "redis", "type": "put", "key": name, "value": name})
        if refuser == "files":
            operations.append({"store": "files", "type": "check", "key": "missing", "exists": True})
        if refuser == "index":
            operations.append({"store": "index", "type": "refuse"})
        if self.level == "strong":
            # One lock that all want, so that there is always somebody who waits.
            operations[0]["resource"] = "facts"
        kind = CoordinationType.TWO_PHASE_COMMIT
        return CoordinationRequest(name, kind, self.names, operations, 60, self.level)

    async def facts(self, stores: dict[str, Any]) -> dict[str, list[str]]:
        """What each store shows; the two files of a fact count as two places."""
        rows = await stores["rows"].fetch("SELECT name FROM facts")
        table = await stores["postgres"].fetch(f"SELECT name FROM {self.table}")
        shown = {
            "rows": sorted(row["name"] for row in rows),
            "files a": _names(self.folder / "files" / "a"),
            "files b": _names(self.folder / "files" / "b"),
            "postgres": sorted(row["name"] for row in table),
            "index": sorted(stores["index"].entries()),
        }
        if REDIS:
            keys = ask(REDIS, "KEYS", f"{self.table}:*")
            shown["redis"] = sorted(key.removeprefix(f"{self.table}:") for key in keys)
        return shown

    def leftovers(self) -> list[str]:
        """Staged work on the disk, once every store is closed."""
        found = [str(path) for path in self.folder.glob("files/.unanimity/*/*/staged/*")]
        with sqlite3.connect(self.folder / "rows.db") as connection:
            staged = connection.execute("SELECT transaction_id FROM unanimity_staged").fetchall()
        connection.close()
        found += [f"rows: {name}" for (name,) in staged]
        if REDIS:
            held = ask(REDIS, "HKEYS", "unanimity:held")
            found += [f"redis: {key}" for key in held if key.startswith(f"{self.table}:")]
        return found + self._held_in_journal()

    async def locks(self, stores: dict[str, Any]) -> list[str]:
        """Who holds or waits at the lock manager, those included whose session is over."""
        if self.level != "strong":
            return []
        statement = (
            "SELECT lock_id AS name FROM distributed_locks "
            "UNION ALL SELECT wait_id FROM lock_wait_queue"
        )
        return [row["name"] for row in await stores["postgres"].fetch(statement)]

    def _held_in_journal(self) -> list[str]:
        if IN_POSTGRES:  # it keeps no locks: their manager's tables stand in its place
            return []
        with sqlite3.connect(self.journal) as connection:
            rows = connection.execute("SELECT lock_id FROM distributed_locks").fetchall()
        connection.close()
        return [f"the journal: {name}" for (name,) in rows]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
