"""What is shown of coordinations: a result, a record, a history, a recovery report, a saga.

Picks and orders facts; the forms say them. Invariant: everything that a record knows is shown, and
what is empty is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from .model import Facts, Section, State, Steps, Table, View
from .words import count_of

if TYPE_CHECKING:
    from .._records import CoordinationRecord, RecoveryReport
    from .._saga import Saga
    from .._types import CoordinationResult
    from .._watch import Overview

_HISTORY = ("id", "state", "type", "stores", "ops", "began", "ms", "message")
_REPORT_IDS_SHOWN = 5


def result_view(result: CoordinationResult) -> View:
    """How a coordination stands, or how it ended."""
    rows: list[tuple[str, object]] = [
        ("coordination", result.coordination_id),
        ("outcome", result.outcome.value),
        ("state", State(result.final_state.value)),
        ("stores", ", ".join(map(str, result.participating_stores))),
        ("operations", f"{result.operations_completed} done, {result.operations_failed} not"),
        ("took", f"{result.execution_duration_ms} ms"),
    ]
    if result.code:
        rows.append(("code", result.code))
    if result.error_message:
        rows.append(("message", result.error_message))
    known = {one.name: getattr(result, one.name) for one in fields(result)}
    return View("", {**known, "outcome": result.outcome}, (Facts(rows),))


def history_view(records: Sequence[CoordinationRecord]) -> View:
    """Coordinations, the latest first."""
    rows = [
        (
            record.coordination_id,
            State(record.state.value),
            record.coordination_type.value,
            ", ".join(record.participating_stores),
            len(record.operations),
            record.created_at,
            None if record.duration is None else round(record.duration.total_seconds() * 1000, 1),
            record.error_message,
        )
        for record in records
    ]
    return View("", records, (Table("", _HISTORY, rows, "no coordinations"),))


def record_view(record: CoordinationRecord) -> View:
    """Everything about one coordination."""
    timeline = record.timeline()
    sections: list[Section] = [Facts(_facts(record))]
    if record.is_saga:
        sections.append(Steps(record.coordination_id, _with_ids(record), record, False))
    sections += [timeline.lanes, *_tables(record), timeline.table()]
    return View("", record, sections)


def saga_view(saga: Saga) -> View:
    """The steps of a saga that did not run, or whose record is not at hand."""
    steps = Steps(saga.coordination_id, saga.operations, None)
    data = {"coordination_id": saga.coordination_id, "operations": saga.operations}
    return View("", data, (steps,))


def _with_ids(record: CoordinationRecord) -> list[dict[str, object]]:
    return [
        {"operation_id": f"{record.coordination_id}:{index}", **operation}
        for index, operation in enumerate(record.operations)
    ]


def _facts(record: CoordinationRecord) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("coordination", record.coordination_id),
        ("type", record.coordination_type.value),
        ("state", State(record.state.value)),
        ("decision", record.decision),
        ("began", record.created_at),
        ("ended", record.completed_at),
        ("took", record.duration),
        ("timeout", f"{record.timeout_seconds:g} s, {record.consistency_level}"),
        ("owner", f"{record.owner}, epoch {record.epoch}"),
    ]
    if record.reason:
        facts.append(("reason", f"{record.reason} [{record.reason_code}]"))
    if record.error_message:
        facts.append(("message", record.error_message))
    return facts


_STORES = ("store", "vote", "asked to commit or abort", "acknowledged", "note")
_OPERATIONS = ("operation", "store", "type", "on")
_STEPS = ("step", "state", "tries", "result", "note")


def _tables(record: CoordinationRecord) -> list[Table]:
    stores = [
        (s.store, s.vote, count_of(s.attempts, "time"), s.acknowledged_at, s.note)
        for s in record.stores
    ]
    operations = [
        (o.get("operation_id"), o.get("store"), o.get("type"), o.get("resource", o.get("key")))
        for o in record.operations
    ]
    steps = [
        (
            s.operation_id,
            State(s.state),
            s.attempts,
            "" if s.result is None else s.result,
            s.note or "",
        )
        for s in record.steps
    ]
    return [
        Table("stores", _STORES, stores),
        Table("operations", _OPERATIONS, operations),
        Table("steps", _STEPS, steps),
    ]


def report_view(report: RecoveryReport) -> View:
    """What a recovery did."""
    rows = [(name.replace("_", " "), len(ids), _some(ids)) for name, ids in vars(report).items()]
    return View("", report, (Table("", ("what became of them", "how many", "which"), rows),))


def _some(ids: Iterable[str]) -> str:
    known = list(ids)
    shown = ", ".join(known[:_REPORT_IDS_SHOWN])
    more = len(known) - _REPORT_IDS_SHOWN
    return shown if more <= 0 else f"{shown} and {count_of(more, 'other')}"


def overview_view(overview: Overview) -> View:
    """How many stand where, and the latest."""
    facts: list[tuple[str, object]] = [
        ("journal", overview.journal),
        ("under way here", len(overview.active)),
    ]
    facts += [(state, count) for state, count in overview.states.items()]
    latest = history_view(overview.latest)
    return View("", overview.__dict__, (Facts(facts), *latest.sections))
