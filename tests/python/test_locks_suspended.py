"""Holders hear that their lock server is silent, before its silence costs them their locks.

The finer cases are the engine's tests (`locks_zookeeper_faults`, `locks_postgres/suspensions`).
Invariant: whatever is stopped goes on when its block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from lock_backends import Manager, fresh
from postgres_cluster import PostgresCluster
from unanimity import LocalLockManager, LockType, PostgresLockManager, ZooKeeperLockManager
from zookeeper_server import ZooKeeperServer, find_zookeeper

SESSION_MS = 8_000
PATIENCE_SECONDS = 30.0


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            # A server process may have ended by itself.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def hears_of_it(manager: Manager, server: Callable[[], list[int]]) -> None:
    """Stop the server, let it go on: the one that holds hears of both."""
    told: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()

    async def resumed(*words: str) -> None:
        told.put_nowait(("resumed", *words))

    manager.on_resumed(resumed)
    async with manager:
        manager.on_suspended(lambda *words: told.put_nowait(("suspended", *words)))
        manager.on_lost(lambda *words: told.put_nowait(("lost", *words)))
        async with manager.lock(fresh(), LockType.EXCLUSIVE, "ann") as held:
            with stopped(server()):
                what, lock_id, requester, left = await asyncio.wait_for(
                    told.get(), PATIENCE_SECONDS
                )
                assert (what, lock_id, requester) == ("suspended", held.lock_id, "ann")
                assert isinstance(left, float) and 0 < left < SESSION_MS / 1000
            goes_on = await asyncio.wait_for(told.get(), PATIENCE_SECONDS)
            assert goes_on == ("resumed", held.lock_id, "ann")
    assert told.empty()


def backends(cluster: PostgresCluster) -> list[int]:
    """The server processes of the database `suspended`."""
    rows = cluster.query("postgres", "SELECT pid FROM pg_stat_activity WHERE datname = 'suspended'")
    return [int(pid) for (pid,) in rows]


def test_holders_in_zookeeper_hear_that_it_is_stopped_and_goes_on() -> None:
    if find_zookeeper() is None:
        pytest.skip("ZooKeeper is not installed")
    with ZooKeeperServer() as server:
        manager = ZooKeeperLockManager(server.hosts, "/test/locks", SESSION_MS)
        asyncio.run(hears_of_it(manager, lambda: [server.pid]))


def test_holders_in_postgres_hear_that_it_is_stopped_and_goes_on(
    postgres: PostgresCluster,
) -> None:
    dsn = postgres.dsn(postgres.create_database("suspended"))
    manager = PostgresLockManager(dsn, session_timeout_ms=SESSION_MS)
    asyncio.run(hears_of_it(manager, lambda: backends(postgres)))


def test_a_callback_is_something_to_call() -> None:
    for listen in (LocalLockManager().on_suspended, LocalLockManager().on_resumed):
        with pytest.raises(TypeError, match="give something to call"):
            listen("print")  # type: ignore[arg-type]
