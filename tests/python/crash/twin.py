"""One of several processes on one journal: `python -m crash.twin FOLDER DSN TABLE INDEX`.

Takes commands as lines of JSON on stdin and answers each with one on stdout. Invariant: it never
calls `recover()` unless it is told to, so what is adopted is adopted by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from typing import Any

from crash.heir import prepared
from crash.world import World
from unanimity import CoordinationService

PATIENCE = 30.0


class Twin:
    """A service, and what it was told to do with it."""

    def __init__(self, world: World, stores: dict[str, Any], service: CoordinationService) -> None:
        self.world, self.stores, self.service = world, stores, service
        self.told = os.open(world.acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.numbers = itertools.count()
        self.lanes: list[asyncio.Task[None]] = []
        self.stopping = False

    async def work(self, lanes: int) -> dict[str, Any]:
        """Begin to add facts, without an end."""
        self.stopping = False
        self.lanes = [asyncio.create_task(self.lane()) for _ in range(lanes)]
        return {}

    async def lane(self) -> None:
        """Add one after the other; write down what is told."""
        while not self.stopping:
            name = f"{os.getpid()}-{next(self.numbers)}"
            result = await self.service.coordinate_transaction(self.world.request(name))
            os.write(self.told, f"{name} {result.outcome.value}\n".encode())

    async def pause(self) -> dict[str, Any]:
        """Stop adding."""
        self.stopping = True
        await asyncio.gather(*self.lanes)
        return {"added": next(self.numbers)}

    async def settle(self, recover: bool) -> dict[str, Any]:
        """Wait until nothing is open or prepared, by whomever; then say what the stores show."""
        began = time.monotonic()
        while True:
            if recover:
                await self.service.recover()
            left = await prepared(self.stores)
            rows = await self.service.history(
                state=["initiated", "preparing", "prepared", "committing", "aborting", "failed"]
            )
            left["open"] = [row.coordination_id for row in rows]
            left = {name: ids for name, ids in left.items() if ids}
            seconds = time.monotonic() - began
            if not left or seconds > PATIENCE:
                facts = await self.world.facts(self.stores)
                return {"left": left, "seconds": seconds, "facts": facts}
            await asyncio.sleep(0.02)

    async def send(self, names: list[str], refuser: str) -> dict[str, Any]:
        """Coordinate these, all at once."""
        requests = [self.world.request(name, refuser) for name in names]
        results = await asyncio.gather(*map(self.service.coordinate_transaction, requests))
        return {each.coordination_id: [each.outcome.value, each.code] for each in results}


async def serve(world: World) -> None:
    """Do as told until stdin ends."""
    stores = world.stores()
    loop = asyncio.get_running_loop()
    async with world.service(stores) as service:
        twin = Twin(world, stores, service)
        print(json.dumps({"pid": os.getpid()}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            print(json.dumps(await getattr(twin, command.pop("do"))(**command)), flush=True)
        await twin.pause()


if __name__ == "__main__":
    asyncio.run(serve(World.from_arguments(sys.argv[1:6])))
