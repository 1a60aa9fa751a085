"""Recovers what a killed child left and says what it found, as one line of JSON on stdout.

`python -m crash.step_heir WORLD...`. It reports; the test judges. Invariant: it is a new process
with new stores on the old journal, as after any crash.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from crash.step_world import StepWorld
from unanimity import CoordinationService

PATIENCE = 20.0


async def settle(service: CoordinationService) -> list[str]:
    """Recover until nothing is under way; what is left when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while True:
        await service.recover()
        left = await service.list_active_coordinations()
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.05)


async def judge(world: StepWorld) -> dict[str, Any]:
    """Recover, look, and coordinate something new."""
    stores = world.stores()
    async with world.service(stores) as service:
        left = await settle(service)
        facts = await world.facts(stores)
        states = {row.coordination_id: row.state.value for row in await service.history(limit=9999)}
        parked = [letter.operation_id for letter in await service.dead_letters()]
        fresh = [f"fresh-{os.getpid()}-{number}" for number in range(3)]
        requests = map(world.request, fresh)
        answers = await asyncio.gather(*map(service.coordinate_transaction, requests))
        after = await world.facts(stores)
    return {
        "left": left,
        "facts": facts,
        "states": states,
        "parked": parked,
        "fresh": fresh,
        "fresh_errors": [str(answer.error_message) for answer in answers if not answer.success],
        "after": after,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(judge(StepWorld.from_arguments(sys.argv[1:5])))))
