"""A PostgreSQL server that stops in the middle of load, politely or not, and comes back.

Real server, real load. Invariant: everything ends, all stores agree, nothing that was told is
lost, nothing stays prepared.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from crash.heir import settle
from crash.world import World
from postgres_cluster import PostgresCluster
from unanimity import CoordinationService, Outcome

LANES = 4
CONFIG = {"timeouts": {"prepare_phase_timeout_seconds": 5, "commit_phase_timeout_seconds": 1}}


def _polite(server: PostgresCluster) -> None:
    server.restart()


def _hard(server: PostgresCluster) -> None:
    server.kill()
    server.start()


@pytest.mark.parametrize("interrupt", [_polite, _hard], ids=["fast stop", "immediate stop"])
def test_a_server_that_goes_and_comes_back_under_load_tears_nothing(
    tmp_path: Path, interrupt: Callable[[PostgresCluster], None]
) -> None:
    with PostgresCluster() as server:
        server.query("postgres", "CREATE TABLE facts (name text PRIMARY KEY)")
        world = World(tmp_path / "world", server.dsn(), "facts", "shared")
        world.make()
        told, report = asyncio.run(_interrupted(world, server, interrupt))
        assert server.prepared() == []
    assert report["left"] == {}
    facts = {place: set(names) for place, names in report["facts"].items()}
    assert all(names == facts["rows"] for names in facts.values()), facts
    committed = {name for name, outcome in told.items() if outcome is Outcome.COMMITTED}
    assert facts["rows"] == committed
    assert {name for name, number in _numbers(committed) if number >= report["after"]}, told


def _numbers(names: set[str]) -> list[tuple[str, int]]:
    return [(name, int(name.partition("-")[2])) for name in names]


async def _interrupted(
    world: World, server: PostgresCluster, interrupt: Callable[[PostgresCluster], None]
) -> tuple[dict[str, Outcome], dict[str, object] | dict[str, dict[str, list[str]]]]:
    """Load, interrupt twice, wait for the end of everything."""
    stores = world.stores()
    told: dict[str, Outcome] = {}
    numbers = itertools.count()
    stopping = False

    async def lane(service: CoordinationService) -> None:
        while not stopping:
            name = f"fact-{next(numbers)}"
            result = await service.coordinate_transaction(world.request(name))
            told[name] = result.outcome

    async def reach(count: int) -> int:
        """Wait until so many more were told committed."""
        wanted = sum(outcome is Outcome.COMMITTED for outcome in told.values()) + count
        while sum(outcome is Outcome.COMMITTED for outcome in told.values()) < wanted:
            await asyncio.sleep(0.01)
        return len(told)

    async with world.service(stores, config=CONFIG) as service:
        lanes = [asyncio.create_task(lane(service)) for _ in range(LANES)]
        for _ in range(2):
            await asyncio.wait_for(reach(20), 60)
            await asyncio.to_thread(interrupt, server)
        after = await asyncio.wait_for(reach(20), 60)
        stopping = True
        await asyncio.gather(*lanes)
        for name in told:
            told[name] = (await service.wait_for(name, timeout=30)).outcome
        left = await settle(service, stores)
        facts = await world.facts(stores)
    return told, {"left": left, "facts": facts, "after": after - 25}
