"""The servers of W4 and of the outbox: a private PostgreSQL with fsync, a private ZooKeeper.

Not mocks: they are the servers of the tests. Invariant: a case begins with an empty database, or
on nodes that are its own.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import TracebackType

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "python"))

from server import NoServer

from postgres_cluster import PostgresCluster, find_postgres
from zookeeper_server import ZooKeeperServer, find_zookeeper


class LockDatabase:
    """A PostgreSQL server, with a new database for each case."""

    def __enter__(self) -> LockDatabase:
        """Start it."""
        if find_postgres("initdb") is None:
            raise NoServer("PostgreSQL is not installed; on Debian: apt-get install postgresql")
        try:
            self._cluster = PostgresCluster(64, max_connections="300", shared_buffers="256MB")
            self._cluster.start()
        except (FileNotFoundError, RuntimeError) as error:
            raise NoServer(f"no PostgreSQL server: {error}") from error
        self._names = (f"locks_{number}" for number in itertools.count())
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
        """Make a database; the arguments that tell a case where it is."""
        name = self._cluster.create_database(next(self._names))
        pid = (self._cluster.folder / "data" / "postmaster.pid").read_text().splitlines()[0]
        return ["--database", self._cluster.dsn(name), "--postmaster", pid]

    def check(self) -> None:
        """A case checks by itself that every lock was granted and released."""


class LockEnsemble:
    """A ZooKeeper server."""

    def __enter__(self) -> LockEnsemble:
        """Start it."""
        if find_zookeeper() is None:
            raise NoServer("ZooKeeper is not installed; on Debian: apt-get install zookeeper")
        self._server = ZooKeeperServer()
        try:
            self._server.start()
        except RuntimeError as error:
            self._server.close()
            raise NoServer(f"no ZooKeeper server: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it and remove its files."""
        self._server.close()

    def prepared_anew(self) -> list[str]:
        """The arguments that tell a case where it is."""
        return ["--database", self._server.hosts, "--postmaster", str(self._server.pid)]

    def check(self) -> None:
        """A case checks by itself that every lock was granted and released."""
