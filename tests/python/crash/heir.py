"""Recovers what a killed child left and says what it found, as one line of JSON on stdout.

`python -m crash.heir FOLDER DSN TABLE INDEX`. It reports; the test judges. Invariant: it is a new
process with new stores on the old journal, as after any crash.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from crash.world import World
from unanimity import CoordinationService

PATIENCE = 20.0


async def settle(service: CoordinationService, stores: dict[str, Any]) -> dict[str, list[str]]:
    """Recover until nothing is under way or prepared; what is left when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while True:
        await service.recover()
        left = {"active": await service.list_active_coordinations()}
        for name, store in stores.items():
            listing = store.list_prepared_transactions
            if listing is not None:
                found = listing()
                left[name] = list(await found if asyncio.iscoroutine(found) else found)
        left = {name: ids for name, ids in left.items() if ids}
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.05)


async def judge(world: World) -> dict[str, Any]:
    """Recover, look, and commit something new."""
    stores = world.stores()
    began = time.monotonic()
    async with world.service(stores) as service:
        left = await settle(service, stores)
        seconds = time.monotonic() - began
        before = await world.facts(stores)
        names = {name for shown in before.values() for name in shown}
        states = {row.coordination_id: row.state.value for row in await service.history(limit=1000)}
        fresh = [f"fresh-{os.getpid()}-{number}" for number in range(3)]
        requests = map(world.request, fresh)
        answers = await asyncio.gather(*map(service.coordinate_transaction, requests))
        after = await world.facts(stores)
        left_after = await settle(service, stores)
    return {
        "left": left,
        "left_after": left_after,
        "facts": before,
        "states": states,
        "names": sorted(names),
        "fresh": fresh,
        "fresh_errors": [str(answer.error_message) for answer in answers if not answer.success],
        "after": after,
        "leftovers": world.leftovers(),
        "seconds": seconds,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(judge(World.from_arguments(sys.argv[1:5])))))
