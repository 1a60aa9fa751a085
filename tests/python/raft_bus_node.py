"""A node of a cluster with a service whose event bus remembers, in a process of its own.

Not a test: `test_partition` starts it, and tells it what to do as `raft_node` is told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from raft_node import Told, die_with_parent, listen_to
from unanimity import CoordinationService, IEventBus, RaftConsensusService
from unanimity.stores import MemoryStore


class Remembering(IEventBus):
    """A bus that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._came = asyncio.Condition()

    async def publish_event(self, event: dict[str, Any]) -> None:
        async with self._came:
            self.events.append(event)
            self._came.notify_all()

    async def hear(self, kind: str) -> list[dict[str, Any]]:
        """Wait for an event of that type, and tell all that came."""
        async with self._came:
            await self._came.wait_for(lambda: any(one["type"] == kind for one in self.events))
        return self.events


class ToldBus(Told):
    """A node that also coordinates, and whose bus can be asked."""

    def __init__(self, raft: RaftConsensusService, journal: str | None) -> None:
        super().__init__(raft)
        bus = Remembering()
        more: dict[str, Any] = {} if journal is None else {"journal": journal}
        service = CoordinationService({"memory": MemoryStore("memory")}, raft, None, bus, **more)
        self.verbs["serve"] = service.start
        self.verbs["hear"] = bus.hear
        self.verbs["events"] = self._events
        self._bus = bus

    async def _events(self) -> list[dict[str, Any]]:
        return self._bus.events


if __name__ == "__main__":
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    options = json.loads(sys.argv[1])
    journal = options.pop("journal", None)
    asyncio.run(listen_to(lambda: ToldBus(RaftConsensusService(**options), journal)))
