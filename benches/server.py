"""The PostgreSQL server of W2: one private server with fsync, two databases, fresh tables per case.

Not a mock: it is the server of the tests, with settings that leave room for the callers.
Invariant: a case begins with new tables behind a checkpoint, and must leave both databases with
equal sums and nothing prepared.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "python"))

from postgres_cluster import PostgresCluster, find_postgres

ROWS = 10_000
_TABLE = f"""
DROP TABLE IF EXISTS account;
CREATE TABLE account (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL) WITH (fillfactor = 50);
INSERT INTO account SELECT id, 0 FROM generate_series(1, {ROWS}) AS id;
ANALYZE account;
CHECKPOINT;
"""


class NoServer(Exception):
    """No server can be started; the message says why."""


class Server:
    """A private server with two databases."""

    databases = ("left", "right")

    def __init__(self, changed: int = 2) -> None:
        """`changed` is how many of the databases every case changes, all by the same."""
        self._changed = self.databases[:changed]

    def __enter__(self) -> Server:
        """Start it."""
        if find_postgres("initdb") is None:
            raise NoServer("PostgreSQL is not installed; on Debian: apt-get install postgresql")
        try:
            self._cluster = PostgresCluster(256, max_connections="300", shared_buffers="256MB")
            self._cluster.start()
        except (FileNotFoundError, RuntimeError) as error:
            raise NoServer(f"no PostgreSQL server: {error}") from error
        for name in self.databases:
            self._cluster.create_database(name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it and remove its files."""
        self._cluster.close()

    def prepared_anew(self) -> list[str]:
        """Make the tables anew; the arguments that tell a case where they are."""
        for gid, database in self._left_prepared():
            self._cluster.query(database, f"ROLLBACK PREPARED '{gid}'")
        arguments = []
        for name in self.databases:
            for statement in _TABLE.strip().split(";\n"):
                self._cluster.query(name, statement)
            # Where a case may have its journal, away from the case's own table.
            self._cluster.query(name, "DROP SCHEMA IF EXISTS journal CASCADE")
            self._cluster.query(name, "CREATE SCHEMA journal")
            arguments += ["--database", self._cluster.dsn(name)]
        return [*arguments, "--postmaster", str(self._postmaster())]

    def check(self) -> None:
        """Fail where the databases disagree or something is left prepared."""
        sums = [self._cluster.query(name, "SELECT sum(balance) FROM account")[0][0]
                for name in self._changed]  # fmt: skip
        if len(set(sums)) > 1 or int(sums[0]) == 0:
            raise RuntimeError(f"the databases disagree: {' and '.join(sums)}")
        if left := self._left_prepared():
            raise RuntimeError(f"{len(left)} transactions are left prepared")

    def _left_prepared(self) -> list[list[str]]:
        return self._cluster.query("postgres", "SELECT gid, database FROM pg_prepared_xacts")

    def _postmaster(self) -> int:
        path = self._cluster.folder / "data" / "postmaster.pid"
        return int(path.read_text().splitlines()[0])
