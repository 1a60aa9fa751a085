"""The verb for streams of events: events tail.

It reads the journal's own events (those of event sourcing), not what a bus carries. Invariant:
nothing is changed.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator

from .. import _engine
from .._display import moment, plain
from .._exceptions import InvalidRequest
from .._stores import Event
from .._views.data import as_json
from .journal import reading
from .output import print_json

_AT_ONCE = 500
# How often is looked for what running services append.
_POLL_SECONDS = 0.2


def events_verb(arguments: Namespace) -> int:
    """Print the latest events; with --follow also those to come, until interrupted."""
    if arguments.follow and arguments.json:
        raise InvalidRequest(
            "--follow has no end, and --json is one document; leave one of them out"
        )
    with reading(arguments.journal) as reader:
        shown = list(_latest(reader, arguments.limit, arguments.stream))
        if arguments.json:
            print_json(shown)
            return 0
        for event in shown:
            print(_line(event))
        position = reader.last_event()
        while arguments.follow:
            for event in reader.events(position, _AT_ONCE):
                position = event.global_position
                if arguments.stream in (None, event.stream_id):
                    print(_line(event), flush=True)
            time.sleep(_POLL_SECONDS)
    return 0


def _latest(reader: _engine.JournalReader, limit: int, stream: str | None) -> Iterator[Event]:
    """The last `limit` events, of one stream or of all, in order."""
    if stream is None:
        position = max(0, reader.last_event() - limit)
    else:
        position = max(0, reader.stream_version(stream) - limit)
    while limit > 0:
        if stream is None:
            page = reader.events(position, min(limit, _AT_ONCE))
        else:
            page = reader.stream(stream, position + 1, min(limit, _AT_ONCE))
        if not page:
            return
        yield from page
        limit -= len(page)
        position = page[-1].global_position if stream is None else page[-1].version


def _line(event: Event) -> str:
    data = as_json(event.data)
    return plain(
        f"{event.global_position}  {moment(event.recorded_at)}  {event.stream_id} {event.version}  "
        f"{event.event_type}  {data}"
    )
