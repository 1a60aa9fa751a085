"""A Python store whose file several processes use at once: Python's own sqlite3 does the work.

Like `SearchIndex` in what it does, unlike it in keeping nothing in memory. Invariant: whatever one
process prepared, any other can commit, abort and list.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from unanimity import AbortResult, CommitResult, PrepareRequest, PrepareResult

_TABLES = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS staged (id TEXT PRIMARY KEY, keys TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS applied (id TEXT PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS entries (key TEXT NOT NULL);
"""


class SharedIndex:
    """Keeps keys, each as often as it was added."""

    def __init__(self, path: str | os.PathLike[str], name: str = "index") -> None:
        self.store_name = name
        self._path = os.fspath(path)
        with self._open() as connection:
            connection.executescript(_TABLES)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=20, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        """Stage; an operation of another type than "index" votes ABORT."""
        if any(operation["type"] != "index" for operation in request.operations):
            return PrepareResult(self.store_name, "ABORT", "it knows 'index' only")
        keys = json.dumps([operation["key"] for operation in request.operations])
        with self._change() as connection:
            connection.execute("INSERT INTO staged VALUES (?, ?)", (request.transaction_id, keys))
        return PrepareResult(self.store_name, "COMMIT")

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Show what is staged; again is fine."""
        one = (transaction_id,)
        with self._change() as connection:
            row = connection.execute(
                "DELETE FROM staged WHERE id = ? RETURNING keys", one
            ).fetchone()
            if row is not None:
                keys = [(key,) for key in json.loads(row[0])]
                connection.executemany("INSERT INTO entries VALUES (?)", keys)
                connection.execute("INSERT INTO applied VALUES (?)", one)
                return CommitResult(self.store_name, "SUCCESS")
            if connection.execute("SELECT 1 FROM applied WHERE id = ?", one).fetchone() is None:
                return CommitResult(self.store_name, "FAILED", "it was never prepared here")
        return CommitResult(self.store_name, "SUCCESS")

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        """Forget what is staged."""
        with self._change() as connection:
            connection.execute("DELETE FROM staged WHERE id = ?", (transaction_id,))
        return AbortResult(self.store_name, "SUCCESS")

    def list_prepared_transactions(self) -> list[str]:
        """Name what is staged."""
        with self._open() as connection:
            return [row[0] for row in connection.execute("SELECT id FROM staged")]

    def entries(self) -> list[str]:
        """Every key, as often as it was added."""
        with self._open() as connection:
            return [row[0] for row in connection.execute("SELECT key FROM entries")]
