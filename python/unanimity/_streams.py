"""Streams of events, as people read them: the service's methods for event sourcing.

Not the appends: those are requests of the type EVENT_SOURCING. Invariants: nothing is read ahead of
whoever iterates, so that no queue grows; every time is an aware UTC datetime.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from . import _engine
from ._arguments import checked_text
from ._exceptions import InvalidRequest
from ._steps import certain_time_of
from ._stores import Event

_EVENTS_AT_ONCE = 256
# How long the engine waits for events before it lets an iterator look around.
_PATIENCE_SECONDS = 5.0

_Question = Callable[[_engine.Coordinator, "asyncio.Future[Any]"], None]


def event_of(
    stream_id: str,
    version: int,
    event_type: str,
    data: dict[str, Any],
    metadata: dict[str, Any],
    global_position: int,
    recorded_at: int,
) -> Event:
    """Make an event of what the engine tells; the time in microseconds since 1970."""
    at = certain_time_of(recorded_at)
    return Event(stream_id, version, event_type, data, metadata, global_position, at)


@dataclass(frozen=True)
class Snapshot:
    """A stream's state at one version, so that older events need not be read again."""

    stream_id: str
    version: int
    state: Any
    taken_at: datetime


@dataclass(frozen=True)
class ProjectionRecord:
    """How far the events have been brought into one store.

    `position` is the global position of the last event that the store has. A projection that is
    parked waits for `redrive("projection:<store_name>")`; `parked_at_position` is the event that it
    could not get past, and `error_message` what the store said last.
    """

    store_name: str
    position: int
    parked_at_position: int | None = None
    error_message: str | None = None


def _checked_count(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} is a {type(value).__name__}; give an int")
    if not 0 <= value < 2**63:
        raise InvalidRequest(f"{what} is {value}; give a number that is not negative")
    return value


class EventStreams:
    """What a service tells of streams of events; a part of `CoordinationService`."""

    async def _ask(self, question: _Question) -> Any:
        raise NotImplementedError

    async def read_stream(
        self, stream_id: str, from_version: int = 0, limit: int = 1000
    ) -> list[Event]:
        """Read events of one stream in order, from a version on; none if there is no such stream.

        Sees everything that was appended before, by every process of the journal.
        """
        checked_text(stream_id, "stream_id")
        first, most = _checked_count(from_version, "from_version"), _checked_count(limit, "limit")
        events: list[Event] = await self._ask(
            lambda coordinator, future: coordinator.streams().read(stream_id, first, most, future)
        )
        return events

    async def stream_version(self, stream_id: str) -> int:
        """Tell the version of a stream's last event; 0 where there is no such stream."""
        checked_text(stream_id, "stream_id")
        version: int = await self._ask(
            lambda coordinator, future: coordinator.streams().version(stream_id, future)
        )
        return version

    async def subscribe_events(
        self, from_position: int = 0, stream_id: str | None = None
    ) -> AsyncIterator[Event]:
        """Iterate over events behind a global position, in order, and over those to come.

        To go on after a stop, begin at the `global_position` of the last event that was handled.
        Events of this process come at once, those of others within a tenth of a second.
        """
        position = _checked_count(from_position, "from_position")
        if stream_id is not None:
            checked_text(stream_id, "stream_id")
        while True:
            for event in await self._next_events(position):
                position = event.global_position
                if stream_id is None or event.stream_id == stream_id:
                    yield event

    async def _next_events(self, after: int) -> list[Event]:
        events: list[Event] = await self._ask(
            lambda coordinator, future: coordinator.streams().next_events(
                after, _EVENTS_AT_ONCE, _PATIENCE_SECONDS, future
            )
        )
        return events

    async def save_snapshot(self, stream_id: str, version: int, state: Any) -> bool:
        """Keep a stream's state at a version, plain JSON, in the place of an older snapshot.

        False, and nothing is kept, when the stream has not come to that version, or a snapshot of
        a later one is kept.
        """
        checked_text(stream_id, "stream_id")
        at = _checked_count(version, "version")
        now = datetime.now(timezone.utc)
        taken_at = int(now.timestamp()) * 1_000_000 + now.microsecond
        kept: bool = await self._ask(
            lambda coordinator, future: coordinator.streams().save_snapshot(
                stream_id, at, state, taken_at, future
            )
        )
        return kept

    async def load_snapshot(self, stream_id: str) -> Snapshot | None:
        """Give the snapshot of a stream, None where none is kept."""
        checked_text(stream_id, "stream_id")
        row: tuple[int, Any, int] | None = await self._ask(
            lambda coordinator, future: coordinator.streams().load_snapshot(stream_id, future)
        )
        if row is None:
            return None
        version, state, taken_at = row
        return Snapshot(stream_id, version, state, certain_time_of(taken_at))

    async def projections(self) -> list[ProjectionRecord]:
        """Tell how far the events have been brought into each store, by the stores' names."""
        rows: list[tuple[str, int, int | None, str | None]] = await self._ask(
            lambda coordinator, future: coordinator.streams().projections(future)
        )
        return [ProjectionRecord(*row) for row in rows]

    async def rebuild_projection(self, store_name: str) -> int:
        """Hand every event to a store again, from the first; others may append meanwhile.

        Gives the number of events, when the store has come to where they ended at the call. What
        the store made of them before is its own to remove, or to overwrite.
        """
        checked_text(store_name, "store_name")
        count: int = await self._ask(
            lambda coordinator, future: coordinator.streams().rebuild(store_name, future)
        )
        return count
