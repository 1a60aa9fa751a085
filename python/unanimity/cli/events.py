"""The verb for streams of events: events tail.

It reads the journal's own events (those of event sourcing), not what a bus carries. Invariants:
nothing is changed; a page of events is in memory at a time while it follows.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator

from .. import _engine
from .._display import moment, plain
from .._stores import Event
from .._views.data import as_json
from .journal import reading
from .output import UsageError, print_json

_AT_ONCE = 500
# How often is looked for what running services append.
_POLL_SECONDS = 0.2


class _Source:
    """Events of one stream or of all, of one type or of all, by their place in that order.

    The place is the global position, and within one stream the version; both count from 1.
    """

    def __init__(
        self, reader: _engine.JournalReader, stream: str | None, event_type: str | None
    ) -> None:
        self._reader = reader
        self._stream = stream
        self._type = event_type

    def last(self) -> int:
        """The place of the last event that there is now."""
        if self._stream is None:
            return self._reader.last_event()
        return self._reader.stream_version(self._stream)

    def between(self, after: int, through: int) -> Iterator[Event]:
        """Those behind a place up to another one, in order, page by page."""
        while after < through:
            page = self._page(after, min(_AT_ONCE, through - after))
            if not page:
                return
            after = self.place(page[-1])
            yield from (event for event in page if self._type in (None, event.event_type))

    def latest(self, limit: int) -> list[Event]:
        """The last ones, in order. Goes back page by page until there are enough."""
        found: list[Event] = []
        through = self.last()
        while through > 0 and len(found) < limit:
            # Without a type every event counts, and no more than those are read.
            size = _AT_ONCE if self._type is not None else min(_AT_ONCE, limit - len(found))
            after = max(0, through - size)
            found = [*self.between(after, through), *found]
            through = after
        return found[-limit:]

    def place(self, event: Event) -> int:
        """Where it stands."""
        return event.global_position if self._stream is None else event.version

    def _page(self, after: int, limit: int) -> list[Event]:
        if self._stream is None:
            return self._reader.events(after, limit)
        return self._reader.stream(self._stream, after + 1, limit)


def events_verb(arguments: Namespace) -> int:
    """Print events; with --follow also those to come, until interrupted."""
    if arguments.follow and arguments.json:
        raise UsageError("--follow has no end, and --json is one document; leave one of them out")
    with reading(arguments.journal) as reader:
        source = _Source(reader, arguments.stream, arguments.type)
        through = source.last()
        if arguments.json:
            print_json(list(_chosen(source, arguments)))
            return 0
        for event in _chosen(source, arguments):
            print(_line(event))
            through = max(through, source.place(event))
        while arguments.follow:
            last = source.last()
            for event in source.between(through, last):
                print(_line(event), flush=True)
            through = last
            time.sleep(_POLL_SECONDS)
    return 0


def _chosen(source: _Source, arguments: Namespace) -> Iterator[Event]:
    """The latest; or those from a place on, which are followed without a limit."""
    if arguments.position is None:
        yield from source.latest(arguments.limit)
        return
    found = source.between(arguments.position - 1, source.last())
    for number, event in enumerate(found):
        if number == arguments.limit and not arguments.follow:
            return
        yield event


def _line(event: Event) -> str:
    data = as_json(event.data)
    return plain(
        f"{event.global_position}  {moment(event.recorded_at)}  {event.stream_id} {event.version}  "
        f"{event.event_type}  {data}"
    )
