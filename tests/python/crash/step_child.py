"""Works in steps until it is killed: `python -m crash.step_child WORLD... REFUSES LANES COUNT`.

What it is told it writes down, durably, before it goes on. Invariant: it ends by itself only when
the armed point was never reached.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator

from crash.step_world import StepWorld


async def work(world: StepWorld, refuses: bool, lanes: int, count: int) -> None:
    """Run `count` coordinations, `lanes` at a time."""
    told = os.open(world.acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    names = iter([f"{os.getpid()}-{number}" for number in range(count)])
    async with world.service(world.stores()) as service:

        async def lane(names: Iterator[str]) -> None:
            for name in names:
                result = await service.coordinate_transaction(world.request(name, refuses))
                os.write(told, f"{name} {result.outcome.value}\n".encode())
                os.fsync(told)

        await asyncio.gather(*(lane(names) for _ in range(lanes)))


if __name__ == "__main__":
    refuses, lanes, count = sys.argv[5:]
    world = StepWorld.from_arguments(sys.argv[1:5])
    asyncio.run(work(world, refuses == "refuses", int(lanes), int(count)))
