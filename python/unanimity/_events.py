"""What an event bus is: the interface only.

Invariant: events leave after what they tell of is durable, and never on the commit path; a bus
that raises or hangs changes no outcome. A bus without `subscribe` serves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class IEventBus(ABC):
    """Carries events to whoever subscribed."""

    @abstractmethod
    async def publish_event(self, event: dict[str, Any]) -> None:
        """Take an event: a dict with the key "type"."""

    async def subscribe(self, event_type: str, handler: Callable[[dict[str, Any]], Any]) -> Any:
        """Hand every event of a type ("*": of all types) to the handler from now on."""
        raise NotImplementedError(f"{type(self).__name__} has no subscribe()")
