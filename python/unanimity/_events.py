"""What an event bus is: the interface, a subscription, and an event whose tries are spent.

Not the buses: those are in `_event_buses`. Invariant: events leave after what they tell of is
durable, and never on the commit path; a bus that raises or hangs changes no outcome. A bus without
`subscribe` serves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Any

EventHandler = Callable[[dict[str, Any]], Any]
"""Takes an event; async or plain. What it returns is ignored, what it raises is a failed try."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class IEventBus(ABC):
    """Carries events to whoever subscribed."""

    @abstractmethod
    async def publish_event(self, event: dict[str, Any]) -> None:
        """Take an event: a dict with the key "type"."""

    async def subscribe(self, event_type: str, handler: EventHandler) -> Subscription:
        """Hand every event of a type ("*": of all types) to the handler from now on."""
        raise NotImplementedError(f"{type(self).__name__} has no subscribe()")


class Subscription:
    """A handler's place on a bus. `async with` ends it on leaving; dropping it does not."""

    def __init__(
        self, event_type: str, group: str | None, end: Callable[[], Awaitable[bool]]
    ) -> None:
        """Remember how it is ended: `end` is awaited once, and tells whether it was there."""
        self.event_type = event_type
        self.group = group
        self._end: Callable[[], Awaitable[bool]] | None = end

    async def unsubscribe(self) -> bool:
        """Have nothing handed over any more, and wait until the handler is done with what it has.

        False where it had ended before.
        """
        end, self._end = self._end, None
        return False if end is None else await end()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.unsubscribe()

    def __repr__(self) -> str:
        state = "ended" if self._end is None else "under way"
        group = "" if self.group is None else f", group={self.group!r}"
        return f"Subscription({self.event_type!r}{group}, {state})"


@dataclass(frozen=True)
class ParkedEvent:
    """An event that a handler failed as often as it was allowed to."""

    event: dict[str, Any]
    event_id: str
    group: str
    """For whom it is parked; a subscription without a group has one of its own."""
    attempts: int
    error_message: str
    """What the handler raised last."""
    parked_at: datetime

    @staticmethod
    def from_engine(
        event: dict[str, Any],
        event_id: str,
        group: str,
        attempts: int,
        error_message: str,
        parked_at: int,
    ) -> ParkedEvent:
        """Make one from what the engine gives: the time is in microseconds."""
        moment = _EPOCH + timedelta(microseconds=parked_at)
        return ParkedEvent(event, event_id, group, attempts, error_message, moment)
