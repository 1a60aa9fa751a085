"""A PostgreSQL server that stops in the middle of load, politely or not, and comes back.

Real server, real load. Invariant: everything ends, all stores agree, nothing that was told is
lost, nothing stays prepared.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash.heir import settle
from crash.world import World
from postgres_cluster import PostgresCluster
from unanimity import CoordinationService, Outcome

LANES = 4
ENOUGH = 20
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
        report = asyncio.run(_interrupted(world, server, interrupt))
        assert server.prepared() == []
    assert report.left == {}
    told = report.told
    facts = {place: set(names) for place, names in report.facts.items()}
    assert all(names == facts["rows"] for names in facts.values()), facts
    committed = {name for name, outcome in told.items() if outcome is Outcome.COMMITTED}
    assert facts["rows"] == committed
    assert len(committed) >= 3 * ENOUGH


@dataclass(frozen=True)
class Report:
    """What callers were told in the end, what is left, what the stores show."""

    told: dict[str, Outcome]
    left: dict[str, list[str]]
    facts: dict[str, list[str]]


async def _interrupted(
    world: World, server: PostgresCluster, interrupt: Callable[[PostgresCluster], None]
) -> Report:
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

    async def reach(count: int) -> None:
        """Wait until so many more were told committed."""
        wanted = sum(outcome is Outcome.COMMITTED for outcome in told.values()) + count
        while sum(outcome is Outcome.COMMITTED for outcome in told.values()) < wanted:
            await asyncio.sleep(0.01)

    async with world.service(stores, config=CONFIG) as service:
        lanes = [asyncio.create_task(lane(service)) for _ in range(LANES)]
        for _ in range(2):
            await asyncio.wait_for(reach(ENOUGH), 60)
            await asyncio.to_thread(interrupt, server)
        await asyncio.wait_for(reach(ENOUGH), 60)
        stopping = True
        await asyncio.gather(*lanes)
        for name in told:
            told[name] = (await service.wait_for(name, timeout=30)).outcome
        left = await settle(world, service, stores)
        facts = await world.facts(stores)
    return Report(told, left, facts)
