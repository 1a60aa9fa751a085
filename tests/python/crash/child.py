"""Works until it is killed: `python -m crash.child WORLD... REFUSER LANES COUNT`.

WORLD is `World.arguments()`. What it is told it writes down, durably, before it goes on.
Invariant: it ends by itself only when the armed point was never reached.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator

from crash.world import World


async def work(world: World, refuser: str, lanes: int, count: int) -> None:
    """Run `count` transactions, `lanes` at a time."""
    told = os.open(world.acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    tail = "-" + "\u00e9" * 90 if os.environ.get("UNANIMITY_TEST_LONG_IDS") else ""
    names = iter([f"{os.getpid()}-{number}{tail}" for number in range(count)])
    async with (
        world.lock_manager() as manager,
        world.service(world.stores(), lock_manager=manager) as service,
    ):

        async def lane(names: Iterator[str]) -> None:
            for name in names:
                result = await service.coordinate_transaction(world.request(name, refuser))
                os.write(told, f"{name} {result.outcome.value}\n".encode())
                os.fsync(told)

        await asyncio.gather(*(lane(names) for _ in range(lanes)))


if __name__ == "__main__":
    refuser, lanes, count = sys.argv[6:]
    asyncio.run(work(World.from_arguments(sys.argv[1:6]), refuser, int(lanes), int(count)))
