"""The columns of a history, for pandas and Arrow: of coordinations, stores, operations and steps.

Names and kinds only. Invariant: whatever the rows are, the coordination's id is the first column,
so that the tables can be joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ._exceptions import InvalidRequest
from ._views.frames import Column

if TYPE_CHECKING:
    from ._records import CoordinationRecord

_ID = Column("coordination_id", "text", lambda row: row[0].coordination_id)

_COORDINATIONS = (
    _ID,
    Column("coordination_type", "text", lambda row: row[0].coordination_type.value),
    Column("state", "text", lambda row: row[0].state.value),
    Column("outcome", "text", lambda row: row[0].outcome.value if row[0].outcome else None),
    Column("participating_stores", "texts", lambda row: row[0].participating_stores),
    Column("operations", "whole", lambda row: len(row[0].operations)),
    Column("decision", "text", lambda row: row[0].decision),
    Column("created_at", "time", lambda row: row[0].created_at),
    Column("completed_at", "time", lambda row: row[0].completed_at),
    Column("duration", "length", lambda row: row[0].duration),
    Column("code", "text", lambda row: row[0].code),
    Column("error_message", "text", lambda row: row[0].error_message),
)


def _own(name: str, kind: str) -> Column:
    return Column(name, kind, lambda row: getattr(row[1], name))


_STORES = (
    _ID,
    _own("store", "text"),
    _own("vote", "text"),
    _own("note", "text"),
    _own("prepare_asked_at", "time"),
    _own("voted_at", "time"),
    _own("delivery_asked_at", "time"),
    _own("acknowledged_at", "time"),
    _own("attempts", "whole"),
)
_OPERATIONS = (
    _ID,
    Column("operation_id", "text", lambda row: row[1].get("operation_id")),
    Column("store", "text", lambda row: row[1].get("store")),
    Column("type", "text", lambda row: row[1].get("type")),
    Column("resource", "text", lambda row: _text(row[1].get("resource", row[1].get("key")))),
    Column("operation", "json", lambda row: row[1]),
)
_STEPS = (
    _ID,
    _own("operation_id", "text"),
    Column("store", "text", lambda row: _store(row[0], row[1].operation_id)),
    _own("state", "text"),
    _own("attempts", "whole"),
    _own("compensation_attempts", "whole"),
    _own("result", "json"),
    _own("note", "text"),
    _own("started_at", "time"),
    _own("completed_at", "time"),
    _own("compensation_started_at", "time"),
    _own("compensated_at", "time"),
)
_KINDS: dict[str, tuple[Sequence[Column], Callable[[CoordinationRecord], Iterable[Any]]]] = {
    "coordinations": (_COORDINATIONS, lambda record: [record]),
    "stores": (_STORES, lambda record: record.stores),
    "operations": (_OPERATIONS, lambda record: record.operations),
    "steps": (_STEPS, lambda record: record.steps),
}


def frame_of(
    records: Sequence[CoordinationRecord], rows: str
) -> tuple[Sequence[Column], Sequence[tuple[CoordinationRecord, Any]]]:
    """The columns, and a row for each coordination, store, operation or step."""
    if rows not in _KINDS:
        raise InvalidRequest(f"rows is {rows!r}; use one of {', '.join(_KINDS)}")
    columns, parts = _KINDS[rows]
    return columns, [(record, part) for record in records for part in parts(record)]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _store(record: CoordinationRecord, operation_id: str) -> str | None:
    found = (one for one in record.operations if one.get("operation_id") == operation_id)
    store = next(found, {}).get("store")
    return None if store is None else str(store)
