"""`unanimity export`: the history as JSON lines, CSV, or one JSON document, the latest first.

It is streamed: a page of the journal is in memory at a time, however long the history is.
Invariant: a coordination that stands from the first page to the last is printed once.
"""

from __future__ import annotations

import csv
import sys
from argparse import Namespace
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .._records import CoordinationRecord
from .._views.data import as_json
from .journal import filter_of, reading
from .output import UsageError

if TYPE_CHECKING:
    from .._engine import JournalReader

_PAGE = 500
_COLUMNS = (
    "coordination_id",
    "coordination_type",
    "state",
    "outcome",
    "decision",
    "participating_stores",
    "operations",
    "created_at",
    "updated_at",
    "completed_at",
    "duration_ms",
    "owner",
    "code",
    "error_message",
)


def export_verb(arguments: Namespace) -> int:
    """Print every coordination that is asked for."""
    if arguments.json and arguments.format is not None:
        raise UsageError("--json is a form of its own; leave --format out, or --json")
    chosen = filter_of(arguments, _PAGE)
    with reading(arguments.journal) as reader:
        records = _pages(reader, chosen)
        if arguments.json:
            _print_document(records)
        elif arguments.format == "csv":
            _print_csv(records)
        else:
            for record in records:
                print(_line(record))
    return 0


def _pages(reader: JournalReader, chosen: dict[str, Any]) -> Iterator[CoordinationRecord]:
    """Go back in time page by page; those of one microsecond may be on two pages."""
    seen: set[str] = set()
    while True:
        limit = _PAGE + len(seen)
        rows = reader.history({**chosen, "limit": limit})
        fresh = [row for row in rows if row["coordination_id"] not in seen]
        yield from map(CoordinationRecord.from_engine, fresh)
        if len(rows) < limit or not fresh:
            return
        last = rows[-1]["created_at"]
        if last != chosen["until"]:
            seen = set()
        seen |= {row["coordination_id"] for row in rows if row["created_at"] == last}
        chosen = {**chosen, "until": last}


def _line(record: CoordinationRecord) -> str:
    return as_json(record)


def _print_document(records: Iterator[CoordinationRecord]) -> None:
    """One document, although it is never whole in memory."""
    before = "["
    for record in records:
        print(before)
        print(_line(record), end="")
        before = ","
    print("[]" if before == "[" else "\n]")


def _print_csv(records: Iterator[CoordinationRecord]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(map(_csv_row, records))


def _csv_row(record: CoordinationRecord) -> list[object]:
    took = record.duration
    values: dict[str, object] = {
        "coordination_type": record.coordination_type.value,
        "state": record.state.value,
        "outcome": record.outcome.value if record.outcome else None,
        "participating_stores": " ".join(record.participating_stores),
        "operations": len(record.operations),
        "created_at": record.created_at.isoformat(),
        "updated_at": record.updated_at.isoformat(),
        "completed_at": record.completed_at.isoformat() if record.completed_at else None,
        "duration_ms": None if took is None else took // timedelta(microseconds=1) / 1000,
    }
    return [values[name] if name in values else getattr(record, name) for name in _COLUMNS]
