"""The stores and requests of a run of sagas or eventual coordinations, and what the stores show.

Every effect is a line of a ledger, so that an effect that happened twice shows as two. Nothing here
decides what is right. Invariant: a line of the Python participant is on the disk before it answers.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis_server import ask
from unanimity import CoordinationRequest, CoordinationService, CoordinationType, Participant
from unanimity.stores import FileStore, PostgresStore, RedisStore, SqliteStore

PLACES = ("index", "rows", "files", "redis", "postgres")
"""In the order in which a saga goes through them."""
REDIS = os.environ.get("UNANIMITY_TEST_REDIS", "")
"""The URL of the Redis database of all runs."""


def ledger(path: Path) -> Participant:
    """Make a participant without a barrier: it writes down what it is asked, every time."""
    index = Participant("index")

    def write(line: str) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(file, f"{line}\n".encode())
            os.fsync(file)
        finally:
            os.close(file)

    @index.operation("add")
    def add(request: Any) -> str:
        write(f"do {request.operation['name']}")
        return "added"

    @add.compensation
    def take_back(request: Any) -> None:
        write(f"undo {request.operation['name']}")

    return index


@dataclass(frozen=True)
class StepWorld:
    """One run's folder, its table in PostgreSQL, and how coordinations are coordinated."""

    folder: Path
    dsn: str
    table: str
    kind: str

    @classmethod
    def from_arguments(cls, arguments: list[str]) -> StepWorld:
        """As `arguments()` gave it."""
        folder, dsn, table, kind = arguments
        return cls(Path(folder), dsn, table, kind)

    def arguments(self) -> list[str]:
        """For the command line of a child."""
        return [str(self.folder), self.dsn, self.table, self.kind]

    @property
    def acknowledged(self) -> Path:
        """Where a child writes what it was told."""
        return self.folder / "acknowledged"

    def make(self) -> None:
        """Make the folder and the SQLite table; the one in PostgreSQL is the test's to make."""
        self.folder.mkdir(parents=True)
        with sqlite3.connect(self.folder / "rows.db") as connection:
            connection.execute("CREATE TABLE facts (name TEXT NOT NULL, delta INTEGER NOT NULL)")
        connection.close()

    def stores(self) -> dict[str, Any]:
        """Open them."""
        return {
            "index": ledger(self.folder / "index.log"),
            "rows": SqliteStore(self.folder / "rows.db"),
            "files": FileStore(self.folder / "files"),
            # Its keys are told from those of other runs by the table's name.
            "redis": RedisStore(REDIS, prefix=f"{self.table}:"),
            "postgres": PostgresStore(self.dsn, max_connections=4),
        }

    def service(self, stores: dict[str, Any]) -> CoordinationService:
        """Make a service on the journal of all processes of this run."""
        return CoordinationService(stores, journal=self.folder / "journal.db")

    def request(self, name: str, refuses: bool = False) -> CoordinationRequest:
        """Add the fact `name` everywhere; with `refuses` the last store finds something wrong."""
        insert = "INSERT INTO facts VALUES (?, {})"
        into = f"INSERT INTO {self.table} VALUES ($1, {{}})"

        def sql(store: str, statement: str) -> dict[str, Any]:
            made = {"type": "execute", "parameters": [name]}
            undo = {**made, "statement": statement.format(-1)}
            do = {**made, "statement": statement.format(1)}
            return {"store": store, "operation_id": store, **do, "compensation": undo}

        put = {"type": "put", "key": f"a/{name}", "value": name}
        undo = {"type": "delete", "key": f"a/{name}"}
        operations: list[dict[str, Any]] = [
            {"store": "index", "operation_id": "index", "type": "add", "name": name},
            sql("rows", insert),
            {"store": "files", "operation_id": "files", **put, "compensation": undo},
            {"store": "redis", "operation_id": "redis", **put, "compensation": undo},
            sql("postgres", into),
        ]
        if refuses:
            operations[-1]["expect_rows"] = 2
        if self.kind == CoordinationType.EVENTUAL_CONSISTENCY.value:
            for operation in operations:
                operation.pop("compensation", None)
        kind = CoordinationType(self.kind)
        return CoordinationRequest(name, kind, list(PLACES), operations, 60, "session")

    async def facts(self, stores: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
        """What each place shows of each name: its lines, 1 for an effect and -1 for its undoing."""
        rows = await stores["rows"].fetch("SELECT name, delta FROM facts ORDER BY rowid")
        table = await stores["postgres"].fetch(f"SELECT name, delta FROM {self.table}")
        files = self.folder / "files" / "a"
        keys = ask(REDIS, "KEYS", f"{self.table}:a/*")
        return {
            "index": self._lines(),
            "rows": _by_name(rows),
            "files": {path.name: [1] for path in files.iterdir()} if files.exists() else {},
            "redis": {key.partition("/")[2]: [1] for key in keys},
            "postgres": _by_name(table),
        }

    def _lines(self) -> dict[str, list[int]]:
        path = self.folder / "index.log"
        lines = path.read_text().splitlines() if path.exists() else []
        words = [line.split(" ", 1) for line in lines]
        return _by_name({"name": name, "delta": 1 if do == "do" else -1} for do, name in words)


def _by_name(rows: Any) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(row["delta"])
    return found


def repeated(facts: dict[str, list[int]]) -> list[str]:
    """Name what happened more than once."""
    return [name for name, lines in facts.items() if Counter(lines)[1] > 1]
