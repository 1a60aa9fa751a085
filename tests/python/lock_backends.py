"""The lock managers that tests run against, by name, each on a real server of its own kind.

Invariant: a kind whose server is not installed is skipped by name, never left out silently.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from postgres_cluster import PostgresCluster, find_postgres
from raft_cluster import free_ports
from unanimity import (
    LocalLockManager,
    LockInfo,
    PostgresLockManager,
    RaftConsensusService,
    RaftLockManager,
    ZooKeeperLockManager,
)
from zookeeper_server import ZooKeeperServer, find_zookeeper

KINDS = ["local", "postgres", "zookeeper", "raft"]

Manager = LocalLockManager | PostgresLockManager | ZooKeeperLockManager | RaftLockManager

_names = (f"resource-{os.getpid()}-{number}" for number in itertools.count())
_databases: dict[str, str] = {}
_nodes: list[RaftConsensusService] = []


def fresh() -> str:
    """A resource that no other test has locked."""
    return next(_names)


def make_manager(kind: str, request: pytest.FixtureRequest, **options: Any) -> Manager:
    """A manager of that kind; two of one kind see each other, unless they are local."""
    if kind == "local":
        return LocalLockManager(**options)
    if kind == "postgres":
        return PostgresLockManager(lock_database(request), **options)
    if kind == "raft":
        return RaftLockManager(lock_node(), **options)
    return ZooKeeperLockManager(lock_ensemble(request), "/test/locks", **options)


def lock_database(request: pytest.FixtureRequest) -> str:
    """The database of all tests of locks."""
    if find_postgres("initdb") is None:
        pytest.skip("PostgreSQL is not installed")
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    if cluster.dsn() not in _databases:
        _databases[cluster.dsn()] = cluster.dsn(cluster.create_database())
    return _databases[cluster.dsn()]


def lock_node() -> RaftConsensusService:
    """The node of all tests of locks, a cluster of its own, which runs until this process ends."""
    if not _nodes:
        node = RaftConsensusService("a", [f"a=127.0.0.1:{free_ports(1)[0]}"], 300, 60)
        # On a loop of its own: the test's may run already.
        starting = threading.Thread(target=lambda: asyncio.run(node.start()))
        starting.start()
        starting.join()
        _nodes.append(node)
    return _nodes[0]


def lock_ensemble(request: pytest.FixtureRequest) -> str:
    """The ZooKeeper of all tests of locks."""
    if find_zookeeper() is None:
        pytest.skip("ZooKeeper is not installed")
    server: ZooKeeperServer = request.getfixturevalue("zookeeper")
    return server.hosts


async def until(
    look: Callable[[], Awaitable[list[LockInfo]]], states: Iterable[str], seconds: float = 20
) -> list[LockInfo]:
    """Look until the states are these, in this order."""
    wanted = list(states)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        infos = await look()
        if [info.state for info in infos] == wanted:
            return infos
        assert loop.time() < end, f"{infos} instead of {wanted}"
        await asyncio.sleep(0.002)
