"""What every Python test may ask for. Nothing here pretends to be a part of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger
from nats_server import NatsServer
from postgres_cluster import PostgresCluster
from redis_server import RedisServer
from unanimity import CoordinationService
from zookeeper_server import ZooKeeperServer

# Nodes that elect leaders and holders that keep sessions by the clock, in processes of their own:
# on two cores one may get no time for longer than its patience, which is no mistake of the code.
# Such a test runs once more, and is told as RERUN. Promises do not hang on it: the simulations,
# which have a clock of their own, know no second try.
_BY_THE_CLOCK = ("test_raft", "test_partition", "test_locks_processes", "test_locks_suspended")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what depends on how much time the machine has for it."""
    for item in items:
        if item.path.name.startswith(_BY_THE_CLOCK):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture
def ledgers() -> dict[str, Ledger]:
    """Two Python stores."""
    return {"left": Ledger("left"), "right": Ledger("right")}


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    """One real server for all tests that do not stop it; each makes its own database."""
    with PostgresCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def unprepared() -> Iterator[PostgresCluster]:
    """A real server on which nothing can be prepared, for all tests that do not stop it."""
    with PostgresCluster(max_prepared_transactions=0) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[ZooKeeperServer]:
    """One real server for all tests that do not stop it."""
    with ZooKeeperServer() as server:
        yield server


@pytest.fixture(scope="session")
def nats() -> Iterator[NatsServer]:
    """One real server for all tests that do not kill it; each has a stream of its own."""
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """One real server for all tests that do not kill it; each has a database of its own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def make_service(tmp_path: Path) -> Callable[..., CoordinationService]:
    """Make services on one journal in this test's folder."""

    def make(stores: dict[str, Any], **more: Any) -> CoordinationService:
        more.setdefault("journal", tmp_path / "journal.db")
        return CoordinationService(stores, **more)

    return make
