"""Recovers what a killed child left and says what it found, as one line of JSON on stdout.

`python -m crash.heir FOLDER DSN TABLE INDEX LEVEL`. It reports; the test judges. Invariant: it is a
new process with new stores on the old journal, as after any crash.
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


async def prepared(stores: dict[str, Any]) -> dict[str, list[str]]:
    """What each store that can tell has prepared."""
    found = {}
    for name, store in stores.items():
        if store.list_prepared_transactions is not None:
            answer = store.list_prepared_transactions()
            found[name] = list(await answer if asyncio.iscoroutine(answer) else answer)
    return found


async def settle(
    world: World, service: CoordinationService, stores: dict[str, Any]
) -> dict[str, list[str]]:
    """Recover until nothing is under way, prepared or locked; what is left when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while True:
        await service.recover()
        left = await prepared(stores)
        left["active"] = await service.list_active_coordinations()
        left["locks"] = await world.locks(stores)
        left = {name: ids for name, ids in left.items() if ids}
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.05)


async def judge(world: World) -> dict[str, Any]:
    """Recover, look, and commit something new."""
    stores = world.stores()
    began = time.monotonic()
    async with (
        world.lock_manager() as manager,
        world.service(stores, lock_manager=manager) as service,
    ):
        left = await settle(world, service, stores)
        seconds = time.monotonic() - began
        before = await world.facts(stores)
        names = {name for shown in before.values() for name in shown}
        states = {row.coordination_id: row.state.value for row in await service.history(limit=1000)}
        fresh = [f"fresh-{os.getpid()}-{number}" for number in range(3)]
        requests = map(world.request, fresh)
        answers = await asyncio.gather(*map(service.coordinate_transaction, requests))
        after = await world.facts(stores)
        left_after = await settle(world, service, stores)
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
    print(json.dumps(asyncio.run(judge(World.from_arguments(sys.argv[1:6])))))
