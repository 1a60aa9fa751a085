"""The event buses to be had: their arguments, and the face that they have in common.

What they do is in the engine. Invariants: an argument that cannot be used is refused with its name
and what to give; a handler runs on the event loop that subscribed it, and its subscription ends
with that loop; a password is in no message.
"""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from . import _engine
from ._arguments import checked_journal, checked_text
from ._bridge import bridge_for_running_loop
from ._events import EventHandler, IEventBus, ParkedEvent, Subscription
from ._exceptions import ConfigError, EventBusError

__all__ = ["InProcessEventBus", "JournalEventBus", "NatsEventBus", "PostgresEventBus"]

_Answer = TypeVar("_Answer")
_Self = TypeVar("_Self", bound="NativeEventBus")


class NativeEventBus(IEventBus):
    """What the buses have in common. First use opens one; `async with` also closes it.

    Of an event the bus reads "type", "event_id" (else it gives one) and "stream": events of one
    stream are handled in the order in which they were published. Without a "stream" that is its
    "coordination_id", else its type.
    """

    def __init__(self) -> None:
        """Open nothing yet."""
        self._opened: _engine.EventBus | None = None
        self._closed = False

    @abstractmethod
    def _open(self) -> _engine.EventBus:
        """Make the native bus."""

    # ---- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open it, and find out whether it answers; repeats do nothing."""
        await self._ask(lambda native, bridge, future: native.parked(bridge, future, 1))

    async def close(self) -> None:
        """End every subscription of this bus, wait for handlers that run; repeats do nothing."""
        if self._opened is not None and not self._closed:
            future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._opened.close(bridge_for_running_loop(), future)
            self._closed = True
            await asyncio.shield(future)
        self._closed = True

    async def __aenter__(self: _Self) -> _Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _native(self) -> _engine.EventBus:
        """Give the native bus, opened; EventBusError once this one is closed."""
        if self._closed:
            raise EventBusError(
                f"the event bus is closed; make another {type(self).__name__}", code="events.closed"
            )
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    async def _ask(
        self,
        question: Callable[[_engine.EventBus, _engine.Bridge, asyncio.Future[_Answer]], None],
    ) -> _Answer:
        """Put a question to the native bus and wait for its answer."""
        native = self._native()
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        question(native, bridge_for_running_loop(), future)
        return await future

    # ---- events -----------------------------------------------------------------------------

    async def publish_event(self, event: dict[str, Any]) -> None:
        """Take an event, and return when it is as durable as this bus makes events.

        Its handlers are given a copy with the key "event_id". Who cancels this await does not know
        whether it is published.
        """
        await self._ask(lambda native, bridge, future: native.publish(bridge, future, event))

    async def subscribe(
        self,
        event_type: str,
        handler: EventHandler,
        *,
        group: str | None = None,
        attempts: int = 5,
        max_in_flight: int = 16,
        timeout_seconds: float = 30.0,
    ) -> Subscription:
        """Hand every event of a type ("*": of all types) to the handler from now on.

        Subscriptions with one `group`, in whatever process, share its events: each is handled by
        one of them. A handler that raises, or takes longer than `timeout_seconds`, is given the
        event again, `attempts` times in all, then it is parked. At most `max_in_flight` events are
        with the handler at once; an async handler runs in the calling event loop, a plain function
        in a thread.
        """
        if not callable(handler):
            raise TypeError(f"handler is a {type(handler).__name__}; give something to call")
        kind = checked_text(event_type, "event_type")
        if group is not None:
            checked_text(group, "group")
        bounds = (
            _whole(attempts, "attempts"),
            _whole(max_in_flight, "max_in_flight"),
            _seconds(timeout_seconds, "timeout_seconds"),
        )
        wish = (None if kind == "*" else kind, group)
        native: _engine.EventSubscription = await self._ask(
            lambda native, bridge, future: native.subscribe(bridge, future, wish, handler, bounds)
        )

        async def end() -> bool:
            future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            native.unsubscribe(bridge_for_running_loop(), future)
            try:
                return await asyncio.shield(future)
            except EventBusError as error:
                # Closing the bus has ended it.
                if error.code == "events.closed":
                    return False
                raise

        return Subscription(event_type, group, end)

    async def parked(self, limit: int = 1000) -> list[ParkedEvent]:
        """List the events whose tries are spent, the oldest first."""
        most = _whole(limit, "limit")
        rows: list[tuple[Any, ...]] = await self._ask(
            lambda native, bridge, future: native.parked(bridge, future, most)
        )
        return [ParkedEvent.from_engine(*row) for row in rows]

    async def redrive(self, event_id: str, group: str) -> bool:
        """Hand a parked event to its group again, with all its tries; False where there is none."""
        checked_text(event_id, "event_id")
        checked_text(group, "group")
        return await self._ask(
            lambda native, bridge, future: native.redrive(bridge, future, event_id, group)
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._opened else "not started"
        return f"{type(self).__name__}({state})"


class InProcessEventBus(NativeEventBus):
    """Events among the tasks of one process. Nothing survives the process, and ids are not kept.

    At most `queue_size` events wait for one group; publishing over that is refused with an
    EventBusError that names the group.
    """

    def __init__(self, *, queue_size: int = 10_000) -> None:
        """Check the arguments; nothing is opened before the first use."""
        super().__init__()
        self._queue_size = _whole(queue_size, "queue_size")

    def _open(self) -> _engine.EventBus:
        return _engine.EventBus.in_process(self._queue_size)


class JournalEventBus(NativeEventBus):
    """Events in a file beside the journal, for the processes of one machine: no server is needed.

    `journal` is the journal's path as the service has it; the file is its name with "-bus" behind
    it. An event is on the disk when it is published. It stays for an hour after every group has
    handled it, and counts once under its id as long as it stays. When a process dies, another of
    its groups goes on at once.
    """

    def __init__(self, journal: str | os.PathLike[str] = "unanimity.db") -> None:
        """Check the arguments; nothing is opened before the first use."""
        super().__init__()
        self._journal = checked_journal(journal)
        if self._journal == "memory:":
            raise ConfigError('journal is "memory:"; give a path, or use InProcessEventBus()')

    def _open(self) -> _engine.EventBus:
        return _engine.EventBus.journal(self._journal)


class PostgresEventBus(NativeEventBus):
    """Events in a PostgreSQL database, for every process that uses it.

    `dsn` is a URL or a list of key=value; the tables are made when they are missing. An event is on
    the server's disk when it is published. It stays for an hour after every group has handled it,
    and counts once under its id as long as it stays. Whoever asks or publishes while the server is
    away waits for it up to `patience_seconds`.
    """

    def __init__(self, dsn: str, *, patience_seconds: float = 10.0) -> None:
        """Check the arguments; nothing is opened before the first use."""
        super().__init__()
        if not isinstance(dsn, str) or not dsn:
            # Not shown: it may hold a password.
            raise ConfigError('dsn is no str, or empty; give "postgresql://user@host/database"')
        self._dsn = dsn
        self._patience = _seconds(patience_seconds, "patience_seconds")

    def _open(self) -> _engine.EventBus:
        return _engine.EventBus.postgres(self._dsn, self._patience)


class NatsEventBus(NativeEventBus):
    """Events on a NATS server with JetStream (`nats-server -js`), seen by all who use it.

    `url` is "nats://host:port", with "user:password@" where the server wants it, "tls://" for TLS,
    several separated by commas. Events are in the server's stream `stream` for
    `retention_seconds`; one that is published again under its id within `duplicate_seconds` counts
    once. The streams of events are spread over `partitions`; a group handles one event of a
    partition at a time, whatever the number of its processes. That number is fixed when the stream
    is made. When a process is silent for `redelivery_seconds`, another one is given what it held.
    Publishing fails when the server does not acknowledge within `publish_seconds`. `replicas` is
    for clusters.
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str = "UNANIMITY",
        partitions: int = 16,
        replicas: int = 1,
        publish_seconds: float = 10.0,
        redelivery_seconds: float = 15.0,
        retention_seconds: float = 7 * 86_400.0,
        duplicate_seconds: float = 120.0,
    ) -> None:
        """Check the arguments; nothing is opened before the first use."""
        super().__init__()
        if not isinstance(url, str) or not url:
            # Not shown: it may hold a password.
            raise ConfigError('url is no str, or empty; give "nats://host:port"')
        self._place = (url, checked_text(stream, "stream"))
        self._counts = (_whole(partitions, "partitions"), _whole(replicas, "replicas"))
        self._times = (
            _seconds(publish_seconds, "publish_seconds"),
            _seconds(redelivery_seconds, "redelivery_seconds"),
            _seconds(retention_seconds, "retention_seconds"),
            _seconds(duplicate_seconds, "duplicate_seconds"),
        )

    def _open(self) -> _engine.EventBus:
        return _engine.EventBus.nats(self._place, self._counts, self._times)


def _whole(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**31:
        raise ConfigError(f"{name} is {value!r}; give a whole number from 1")
    return value


def _seconds(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e9:
        raise ConfigError(f"{name} is {value!r}; give a number of seconds greater than 0")
    return float(value)
