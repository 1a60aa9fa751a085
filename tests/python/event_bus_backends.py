"""The event buses that tests run against, by name, each on a real server of its own kind.

Invariant: a kind whose server is not installed is skipped by name, never left out silently. A new
kind is one more entry in `KINDS` (and in `SHARED`, where processes share it) and in `bus_source`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

import pytest

import unanimity
from nats_server import NatsServer, find_nats
from unanimity import IEventBus

KINDS = ["in_process", "nats"]
# Those that several processes share, and that remember what a group has handled.
SHARED = ["nats"]
PATIENCE = 60.0

_names = (f"T{os.getpid()}_{number}" for number in itertools.count())


def bus_source(kind: str, request: pytest.FixtureRequest, **options: Any) -> str:
    """How a program makes a bus of that kind; all that it makes are one bus, and a fresh one."""
    if kind == "in_process":
        arguments: list[str] = []
    else:
        if find_nats() is None:
            pytest.skip("nats-server is not installed")
        server: NatsServer = request.getfixturevalue("nats")
        options.setdefault("stream", next(_names))
        options.setdefault("redelivery_seconds", 1.0)
        arguments = [repr(server.url)]
    arguments += [f"{name}={value!r}" for name, value in options.items()]
    name = {"in_process": "InProcessEventBus", "nats": "NatsEventBus"}[kind]
    return f"unanimity.{name}({', '.join(arguments)})"


def make_bus(source: str) -> Any:
    """The bus that a source tells of."""
    bus = eval(source, {"unanimity": unanimity})
    assert isinstance(bus, IEventBus)
    return bus


class Inbox:
    """A handler that keeps what it is given, and raises as long as it is told to."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.raises: dict[str, int] = {}
        self._more = asyncio.Event()

    async def __call__(self, event: dict[str, Any]) -> None:
        self.seen.append(event)
        self._more.set()
        left = self.raises.get(event.get("name", ""), 0)
        if left:
            self.raises[event["name"]] = left - 1
            raise ValueError(f"not {event['name']}")

    @property
    def names(self) -> list[str]:
        """What it was given, by name, in order."""
        return [event["name"] for event in self.seen]

    async def until(self, count: int) -> list[str]:
        """Wait until it was given so many."""

        async def enough() -> None:
            while len(self.seen) < count:
                self._more.clear()
                await self._more.wait()

        await asyncio.wait_for(enough(), PATIENCE)
        return self.names


def event(name: str, stream: str | None = None, event_type: str = "TOLD") -> dict[str, Any]:
    """An event with a name of its own."""
    body: dict[str, Any] = {"type": event_type, "name": name}
    if stream is not None:
        body["stream"] = stream
    return body
