"""W4: taking and letting go of exclusive locks, beside what Python users have today.

Each caller has a key of its own, or all have one (`hot key`). The peers: `asyncio.Lock` in one
process; session-level advisory locks of PostgreSQL through asyncpg, which have no queue that can
be seen, no modes and no fencing; kazoo's lock recipe for ZooKeeper, in threads, as it wants.
`deadlock` measures from the wait that closes a circle of two to its refusal.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Any

from measure import Case, Row, main, percentiles, run_callers

from unanimity import LocalLockManager, LockType

X = LockType.EXCLUSIVE
# As with W2, more connections only cost the server more.
PEER_CONNECTIONS = 32
Subject = Callable[[Case], Awaitable[Row]]


def ours(make: Callable[[Case], AbstractAsyncContextManager[Any]], is_hot: bool) -> Subject:
    """One of our managers."""

    async def measure(case: Case) -> Row:
        async with make(case) as manager:

            async def hold(number: int) -> None:
                key = "hot" if is_hot else f"key-{number % case.callers}"
                requester = f"caller-{number}"
                granted = await manager.acquire_lock(key, X, requester)
                if not await manager.release_lock(granted.lock_id, requester):
                    raise AssertionError(granted.error_message)

            return await run_callers(case, hold)

    return measure


def postgres(case: Case) -> AbstractAsyncContextManager[Any]:
    """Our manager in PostgreSQL."""
    from unanimity import PostgresLockManager

    return PostgresLockManager(case.databases[0])


def zookeeper(case: Case) -> AbstractAsyncContextManager[Any]:
    """Our manager in ZooKeeper."""
    from unanimity import ZooKeeperLockManager

    return ZooKeeperLockManager(case.databases[0])


def asyncio_lock(is_hot: bool) -> Subject:
    """The lock of the standard library: no names, no modes, no queue to look at."""

    async def measure(case: Case) -> Row:
        locks = [asyncio.Lock() for _ in range(1 if is_hot else case.callers)]

        async def hold(number: int) -> None:
            lock = locks[number % len(locks)]
            await lock.acquire()
            lock.release()

        return await run_callers(case, hold)

    return measure


def advisory_locks(is_hot: bool) -> Subject:
    """`pg_advisory_lock` and `pg_advisory_unlock`, on at most 32 connections."""

    async def measure(case: Case) -> Row:
        asyncpg: Any = importlib.import_module("asyncpg")
        count = min(PEER_CONNECTIONS, case.callers)
        connections = [await asyncpg.connect(case.databases[0]) for _ in range(count)]
        gate = asyncio.Semaphore(count)

        async def hold(number: int) -> None:
            key = 0 if is_hot else number % case.callers
            async with gate:
                connection = connections.pop()
                await connection.fetchval("SELECT pg_advisory_lock($1)", key)
                await connection.fetchval("SELECT pg_advisory_unlock($1)", key)
                connections.append(connection)

        row = await run_callers(case, hold)
        for connection in connections:
            await connection.close()
        return {**row, "connections": count}

    return measure


def kazoo_lock(is_hot: bool) -> Subject:
    """kazoo's `Lock`, each caller with a thread and a lock object of its own, one client."""

    async def measure(case: Case) -> Row:
        kazoo: Any = importlib.import_module("kazoo.client")
        client = kazoo.KazooClient(hosts=case.databases[0])
        client.start()
        keys = ["hot" if is_hot else f"key-{caller}" for caller in range(case.callers)]
        free = [client.Lock(f"/bench/{key}", str(caller)) for caller, key in enumerate(keys)]
        loop = asyncio.get_running_loop()

        def hold_now() -> None:
            lock = free.pop()
            lock.acquire()
            lock.release()
            free.append(lock)

        with ThreadPoolExecutor(case.callers) as executor:

            async def hold(number: int) -> None:
                await loop.run_in_executor(executor, hold_now)

            row = await run_callers(case, hold)
        client.stop()
        client.close()
        return row

    return measure


async def deadlock(case: Case) -> Row:
    """How long it takes until the wait that closes a circle is refused."""
    latencies: list[float] = []
    until = time.perf_counter() + case.seconds
    async with LocalLockManager() as manager:
        while (began := time.perf_counter()) < until:
            old = await manager.acquire_lock("one", X, "old")
            await manager.acquire_lock("two", X, "young")
            waits = asyncio.create_task(manager.acquire_lock("two", X, "old"))
            await asyncio.sleep(0)
            began = time.perf_counter()
            refused = await manager.acquire_lock("one", X, "young")
            latencies.append(time.perf_counter() - began)
            if refused.acquired or refused.deadlock_cycle is None:
                raise AssertionError("no deadlock was found")
            await manager.release_all("young")
            if not (await waits).acquired or old.lock_id is None:
                raise AssertionError("the other one was not granted")
            await manager.release_all("old")
    row = percentiles(latencies)
    return {**row, "ms": row["p99_us"] / 1e3}


if __name__ == "__main__":
    main(
        {
            "unanimity": ours(lambda case: LocalLockManager(), is_hot=False),
            "asyncio.Lock": asyncio_lock(is_hot=False),
            "unanimity, hot key": ours(lambda case: LocalLockManager(), is_hot=True),
            "asyncio.Lock, hot key": asyncio_lock(is_hot=True),
            "unanimity, PostgreSQL": ours(postgres, is_hot=False),
            "advisory locks": advisory_locks(is_hot=False),
            "unanimity, PostgreSQL, hot key": ours(postgres, is_hot=True),
            "advisory locks, hot key": advisory_locks(is_hot=True),
            "unanimity, ZooKeeper": ours(zookeeper, is_hot=False),
            "kazoo": kazoo_lock(is_hot=False),
            "unanimity, ZooKeeper, hot key": ours(zookeeper, is_hot=True),
            "kazoo, hot key": kazoo_lock(is_hot=True),
            "unanimity, deadlock": deadlock,
        }
    )
