"""The rows of `config_rows` that need a server: PostgreSQL, ZooKeeper or NATS."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from config_rows import PATIENCE, World, row, until
from ledger import Ledger, request
from postgres_cluster import PostgresCluster
from unanimity import (
    IDistributedLockManager,
    LocalLockManager,
    LockType,
    NatsEventBus,
    PostgresEventBus,
    PostgresLockManager,
    UnanimityError,
    ZooKeeperLockManager,
)

# ---- the journal's database ------------------------------------------------------------------


@row("database.connection_string")
async def _(world: World) -> None:
    cluster: PostgresCluster = world.server("postgres")
    database = cluster.create_database()
    settings = {"journal": None, "database": {"connection_string": cluster.dsn(database)}}
    async with world.service(settings, {"left": Ledger("left")}) as service:
        await service.coordinate_transaction(request("t1", "left"))
    found = cluster.query(database, "SELECT coordination_id FROM coordination_transactions")
    assert found == [["t1"]]
    assert list(world.folder.iterdir()) == []


def _in_database(cluster: PostgresCluster, database: str, **pool: Any) -> dict[str, Any]:
    return {
        "journal": None,
        "database": {"connection_string": cluster.dsn(database), "connection_pool": pool},
    }


async def _count(cluster: PostgresCluster, database: str, where: str = "true") -> int:
    """How many connections the journal has."""
    text = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND pid <> pg_backend_pid() AND {where}"
    )
    return int((await asyncio.to_thread(cluster.query, database, text))[0][0])


@row("database.connection_pool.min_connections")
async def _(world: World) -> None:
    cluster: PostgresCluster = world.server("postgres")
    database = cluster.create_database()
    settings = _in_database(cluster, database, min_connections=7, idle_timeout_seconds=0.05)
    async with world.service(settings):

        async def has_all() -> bool:
            return await _count(cluster, database) == 7

        await until(has_all, "seven connections are open")


@row(
    "database.connection_pool.max_connections",
    "database.connection_pool.idle_timeout_seconds",
)
async def _(world: World) -> None:
    cluster: PostgresCluster = world.server("postgres")
    database = cluster.create_database()
    pool = {"min_connections": 3, "max_connections": 5, "idle_timeout_seconds": 0.2}
    async with world.service(_in_database(cluster, database, **pool)) as service:
        # A lock of ours holds every question up.
        blocker: Any = await asyncpg.connect(cluster.dsn(database))
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE coordination_transactions IN ACCESS EXCLUSIVE MODE")
            asked = [asyncio.create_task(service.history()) for _ in range(12)]

            async def are_waiting() -> bool:
                return await _count(cluster, database, "wait_event_type = 'Lock'") >= 3

            await until(are_waiting, "three questions are asked at once")
            assert await _count(cluster, database, "wait_event_type = 'Lock'") == 3
        await blocker.close()
        assert all(len(each) == 0 for each in await asyncio.gather(*asked))

        async def is_small() -> bool:
            return await _count(cluster, database) == 3

        await until(is_small, "what nobody uses was closed")


@row("performance.batch_size")
async def _(world: World) -> None:
    cluster: PostgresCluster = world.server("postgres")
    calls = {}
    for size in (1, 50):
        database = cluster.create_database()
        cluster.query("postgres", f"ALTER DATABASE \"{database}\" SET track_functions = 'all'")
        settings = {**_in_database(cluster, database), "performance": {"batch_size": size}}
        async with world.service(settings, {"left": Ledger("left")}) as service:
            asked = [request(f"t{number}", "left") for number in range(60)]
            results = await asyncio.gather(*map(service.coordinate_transaction, asked))
            assert all(result.success for result in results)
        text = "SELECT coalesce(max(calls), 0) FROM pg_stat_user_functions"
        calls[size] = int(cluster.query(database, text)[0][0])
    # Alone, each begin and each decision is a round trip of its own.
    assert calls[1] >= 120 > calls[50] > 0, calls


@row("performance.batch_timeout_ms")
async def _(world: World) -> None:
    cluster: PostgresCluster = world.server("postgres")
    for wait, is_ended in ((60_000, False), (1, True)):
        database = cluster.create_database()
        settings = {**_in_database(cluster, database), "performance": {"batch_timeout_ms": wait}}

        async def has_end(database: str = database) -> bool:
            text = "SELECT completed_at IS NOT NULL FROM coordination_transactions"
            return await asyncio.to_thread(cluster.query, database, text) == [["t"]]

        async with world.service(settings, {"left": Ledger("left")}) as service:
            await service.coordinate_transaction(request("t1", "left"))
            if is_ended:
                await until(has_end, "the end was written by itself")
            else:
                # Nobody waits for the end record, so it waits for company.
                assert not await has_end()
        assert await has_end()


# ---- locks -----------------------------------------------------------------------------------


async def _holds(manager: Any, resource: str) -> bool:
    """Whether somebody holds it, as this manager sees it."""
    return bool(await manager.check_lock_status(resource))


@row("lock_manager.backend", "lock_manager.postgres.connection_string")
async def _(world: World) -> None:
    cluster: PostgresCluster = world.server("postgres")
    dsn = cluster.dsn(cluster.create_database())
    both = {"backend": "postgres", "postgres": {"connection_string": dsn}}
    for settings in (
        {"lock_manager": both},
        {"lock_manager": {"backend": "postgres"}, "database": {"connection_string": dsn}},
    ):
        async with world.service(settings) as service, PostgresLockManager(dsn) as other:
            manager: Any = service.lock_manager
            assert isinstance(manager, PostgresLockManager)
            got = await manager.acquire_lock("a", LockType.EXCLUSIVE, "x")
            assert got.acquired and await _holds(other, "a")
    nothing = world.service({"lock_manager": {"backend": "local"}})
    assert nothing.lock_manager is None
    off = {"backend": "local", "deadlock_detection": {"enabled": False}}
    assert isinstance(world.service({"lock_manager": off}).lock_manager, LocalLockManager)


@row("lock_manager.postgres.session_timeout_ms", "lock_manager.postgres.connections")
async def _(world: World) -> None:
    cluster: PostgresCluster = world.server("postgres")
    counts = {}
    for connections in (1, 6):
        database = cluster.create_database()
        postgres = {
            "connection_string": cluster.dsn(database),
            "connections": connections,
            "session_timeout_ms": 4_000,
        }
        settings = {"lock_manager": {"backend": "postgres", "postgres": postgres}}
        async with world.service(settings) as service:
            manager: Any = service.lock_manager
            # An expiry is the session's, which the server counts by its own clock.
            asks = (manager.acquire_lock(f"r{n}", LockType.EXCLUSIVE, f"x{n}") for n in range(60))
            assert all(each.acquired for each in await asyncio.gather(*asks))
            counts[connections] = await _count(cluster, database)
            assert manager._times[0] == 4.0
    assert counts[6] - counts[1] <= 5 and counts[6] >= counts[1], counts


@row("lock_manager.deadlock_detection.detection_interval_seconds")
async def _(world: World) -> None:
    hosts = world.server("zookeeper").hosts
    for settings in (
        {"backend": "postgres", "postgres": {"connection_string": "postgresql://127.0.0.1:1/x"}},
        {"zookeeper": {"connection_string": hosts}},
    ):
        detection = {"deadlock_detection": {"detection_interval_seconds": 3}}
        manager: Any = world.service({"lock_manager": {**settings, **detection}}).lock_manager
        assert manager._timing()[1] == 3
        off = {"deadlock_detection": {"detection_interval_seconds": 3, "enabled": False}}
        manager = world.service({"lock_manager": {**settings, **off}}).lock_manager
        assert manager._timing()[1] is None


async def _crossing(one: IDistributedLockManager, other: IDistributedLockManager) -> list[Any]:
    """Two processes that each hold what the other wants, for a while."""
    await one.acquire_lock("a", LockType.EXCLUSIVE, "x")
    await other.acquire_lock("b", LockType.EXCLUSIVE, "y")
    found = await asyncio.gather(
        one.acquire_lock("b", LockType.EXCLUSIVE, "x", 2),
        other.acquire_lock("a", LockType.EXCLUSIVE, "y", 2),
    )
    return [each.deadlock_cycle for each in found]


async def detection_that_is_off_leaves_a_deadlock_to_the_timeouts(world: World) -> None:
    """On both kinds of servers, between two managers."""
    cluster: PostgresCluster = world.server("postgres")
    dsn = cluster.dsn(cluster.create_database())
    hosts = world.server("zookeeper").hosts
    backends = (
        {"backend": "postgres", "postgres": {"connection_string": dsn}},
        {"zookeeper": {"connection_string": hosts, "lock_root_path": "/undetected"}},
    )
    for backend in backends:
        detection = {"enabled": False, "detection_interval_seconds": 0.05}
        settings = {"lock_manager": {**backend, "deadlock_detection": detection}}
        memory = {**settings, "journal": "memory:"}
        async with world.service(memory) as one, world.service(memory) as other:
            assert one.lock_manager is not None and other.lock_manager is not None
            assert await _crossing(one.lock_manager, other.lock_manager) == [None, None]


@row(
    "lock_manager.zookeeper.connection_string",
    "lock_manager.zookeeper.lock_root_path",
    "lock_manager.zookeeper.session_timeout_ms",
)
async def _(world: World) -> None:
    hosts = world.server("zookeeper").hosts
    zookeeper = {
        "connection_string": hosts,
        "lock_root_path": "/config/here",
        "session_timeout_ms": 7_000,
    }
    async with world.service({"lock_manager": {"zookeeper": zookeeper}}) as service:
        manager: Any = service.lock_manager
        assert isinstance(manager, ZooKeeperLockManager)
        assert manager._times[0] == 7.0
        assert (await manager.acquire_lock("a", LockType.EXCLUSIVE, "x")).acquired
        async with ZooKeeperLockManager(hosts, "/config/here") as same:
            assert await _holds(same, "a")
        async with ZooKeeperLockManager(hosts, "/config/there") as elsewhere:
            assert not await _holds(elsewhere, "a")


@row("lock_manager.zookeeper.user", "lock_manager.zookeeper.password")
async def _(world: World) -> None:
    hosts = world.server("zookeeper").hosts
    zookeeper = {"connection_string": hosts, "lock_root_path": "/config/own"}
    own = {**zookeeper, "user": "u", "password": "right"}
    async with world.service({"lock_manager": {"zookeeper": own}}) as service:
        manager: Any = service.lock_manager
        assert (await manager.acquire_lock("a", LockType.EXCLUSIVE, "x")).acquired
        wrong = ZooKeeperLockManager(hosts, "/config/own", credentials=("u", "wrong"))
        async with wrong:
            with pytest.raises(UnanimityError):
                await asyncio.wait_for(
                    wrong.acquire_lock("a", LockType.EXCLUSIVE, "y", 5), PATIENCE
                )


# ---- events ----------------------------------------------------------------------------------


@row("event_bus.url", "event_bus.stream", "event_bus.partitions", "event_bus.replicas")
async def _(world: World) -> None:
    cluster: PostgresCluster = world.server("postgres")
    heard: list[dict[str, Any]] = []
    dsn = cluster.dsn(cluster.create_database())
    nats = {
        "backend": "nats",
        "url": world.server("nats").url,
        "stream": "CONFIGURED",
        "partitions": 3,
        "replicas": 1,
    }
    for bus, kind in (
        (nats, NatsEventBus),
        ({"backend": "postgres", "url": dsn}, PostgresEventBus),
    ):
        async with world.service({"event_bus": bus}, {"left": Ledger("left")}) as service:
            assert type(service.event_bus) is kind
            await service.event_bus.subscribe("COORDINATION_COMPLETED", heard.append)
            await service.coordinate_transaction(request(f"t-{kind.__name__}", "left"))
            wanted = f"t-{kind.__name__}"

            def is_there(wanted: str = wanted) -> bool:
                return any(event["coordination_id"] == wanted for event in heard)

            await until(is_there, "the bus carried the event")
    # The number of partitions is fixed with the stream, and another one is refused.
    again = {**nats, "partitions": 5}
    with pytest.raises(UnanimityError, match="3"):
        service = world.service({"event_bus": again})
        assert service.event_bus is not None
        await service.event_bus.publish_event({"type": "x"})
    # One server alone cannot keep three copies.
    with pytest.raises(UnanimityError):
        service = world.service({"event_bus": {**nats, "stream": "COPIES", "replicas": 3}})
        assert service.event_bus is not None
        await service.event_bus.publish_event({"type": "x"})
