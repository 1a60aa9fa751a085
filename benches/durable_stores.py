"""Python stores that outlive their process: both keep their state in one SQLite file.

For the recovery benchmark. A commit of SQLite reaches the operating system but is not waited for
to reach the disk, because a killed process loses nothing that it has written.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from unanimity import AbortResult, CommitResult, PrepareRequest, PrepareResult

_TABLES = """
CREATE TABLE IF NOT EXISTS staged (store TEXT, id TEXT, key TEXT, value, PRIMARY KEY (store, id))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shown (store TEXT, key TEXT, value, PRIMARY KEY (store, key))
    WITHOUT ROWID;
"""


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file of both stores."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(_TABLES)
    return connection


class DurableStore:
    """One key for each coordination; it sets `resolved` when nothing is staged any more."""

    def __init__(self, name: str, connection: sqlite3.Connection) -> None:
        """Take up what an earlier process left staged."""
        self.store_name = name
        self._connection = connection
        self.staged = set(self._ids())
        self.resolved = asyncio.Event()
        self._tell()

    def _ids(self) -> list[str]:
        rows = self._connection.execute("SELECT id FROM staged WHERE store = ?", (self.store_name,))
        return [row[0] for row in rows]

    def _tell(self) -> None:
        if not self.staged:
            self.resolved.set()

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        """Stage."""
        operation = request.operations[0]
        row = (self.store_name, request.transaction_id, operation["key"], operation["value"])
        self._connection.execute("INSERT INTO staged VALUES (?, ?, ?, ?)", row)
        self.staged.add(request.transaction_id)
        return PrepareResult(self.store_name, "COMMIT")

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Show it and forget that it was staged, at once."""
        which = (self.store_name, transaction_id)
        self._connection.execute("BEGIN")
        self._connection.execute(
            "INSERT OR REPLACE INTO shown SELECT store, key, value FROM staged "
            "WHERE store = ? AND id = ?",
            which,
        )
        self._connection.execute("DELETE FROM staged WHERE store = ? AND id = ?", which)
        self._connection.execute("COMMIT")
        self._forget(transaction_id)
        return CommitResult(self.store_name, "SUCCESS")

    async def abort_transaction(self, transaction_id: str) -> AbortResult:
        """Forget it."""
        which = (self.store_name, transaction_id)
        self._connection.execute("DELETE FROM staged WHERE store = ? AND id = ?", which)
        self._forget(transaction_id)
        return AbortResult(self.store_name, "SUCCESS")

    async def list_prepared_transactions(self) -> list[str]:
        """Name what is staged."""
        return self._ids()

    def _forget(self, transaction_id: str) -> None:
        self.staged.discard(transaction_id)
        self._tell()

    def shown(self) -> dict[str, int]:
        """Read what is committed."""
        rows = self._connection.execute(
            "SELECT key, value FROM shown WHERE store = ?", (self.store_name,)
        )
        return dict(rows.fetchall())
