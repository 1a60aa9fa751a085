"""When what happened in a coordination: a list for reading, and a lane of time for each store.

Made of a record's times alone, which are the journal's; nothing is measured here. What stands in
no record has no time: a try between the first and the last is counted, and the decision lies
between the last vote and the first store that was told. Invariant: the order of the protocol stands
also among what happened in one microsecond.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ._views.model import Lane, Lanes, Span, Table, View
from ._views.viewed import Drawn
from ._views.words import count_of, duration

if TYPE_CHECKING:
    from ._records import CoordinationRecord, StoreRecord
    from ._steps import StepRecord

COORDINATOR = "coordinator"


@dataclass(frozen=True)
class TimelineEntry:
    """One thing that happened, and when; `store` is None for the coordination itself."""

    at: datetime
    store: str | None
    what: str


class Timeline(list[TimelineEntry], Drawn):
    """What happened, in order of time: a list, which shows itself with a lane for each store."""

    def __init__(self, entries: Iterable[TimelineEntry], lanes: Lanes) -> None:
        """Take the entries in their order, and the lanes of the same coordination."""
        super().__init__(entries)
        self.lanes = lanes

    def table(self) -> Table:
        """The entries, for a view."""
        rows = [(entry.at, entry.store or "", entry.what) for entry in self]
        return Table("timeline", ("at", "store", "what"), rows)

    def _view(self) -> View:
        return View("", list(self), (self.lanes, self.table()))

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"Timeline({self.lanes.title!r}, {count_of(len(self), 'entry', 'entries')})"

    def __reduce__(self) -> tuple[object, ...]:
        return Timeline, (list(self), self.lanes)


def timeline_of(record: CoordinationRecord) -> Timeline:
    """What happened in it, in order of time."""
    began = TimelineEntry(record.created_at, None, "began")
    entries: list[TimelineEntry] = []
    verb = (record.decision or "delivery").lower()
    for store in record.stores:
        # The note is the store's own word with its vote, or else the last trouble with it.
        is_trouble = store.vote in ("COMMIT", "READ_ONLY") and store.attempts > 1
        note = f": {store.note}" if store.note else ""
        vote = f"voted {store.vote}" + ("" if is_trouble else note)
        again = f" ({store.attempts} tries{note})" if store.attempts > 1 else ""
        steps = (
            (store.prepare_asked_at, "asked to prepare"),
            (store.voted_at, vote),
            (store.delivery_asked_at, f"told to {verb}"),
            (store.acknowledged_at, f"acknowledged {verb}{again}"),
        )
        entries += [TimelineEntry(at, store.store, what) for at, what in steps if at]
    store_of = _store_of(record)
    for step in record.steps:
        name = store_of.get(step.operation_id)
        entries += [TimelineEntry(at, name, what) for at, what in step.moments()]
    # Sorting is stable, so what happened in one microsecond stays in the order of the protocol.
    # The ends stay at the ends, though a record is stamped a little beside what it records.
    entries = [began, *sorted(entries, key=lambda entry: entry.at)]
    if record.completed_at is not None:
        word = record.outcome.value if record.outcome else record.state.value
        entries.append(TimelineEntry(record.completed_at, None, f"ended: {word}"))
    return Timeline(entries, _lanes(record, [entry.at for entry in entries]))


def _store_of(record: CoordinationRecord) -> dict[str, str]:
    return {one["operation_id"]: one["store"] for one in record.operations}


def _lanes(record: CoordinationRecord, times: list[datetime]) -> Lanes:
    end = max([*times, record.completed_at or record.updated_at])
    # A begin is stamped when it is recorded, which may be a little after the first question.
    begin = min(times)
    lanes = [_coordinator(record, times), *(_of_votes(store, record) for store in record.stores)]
    store_of = _store_of(record)
    by_store: dict[str, list[StepRecord]] = {}
    for step in record.steps:
        by_store.setdefault(store_of.get(step.operation_id, "?"), []).append(step)
    lanes += [_of_steps(name, steps, record) for name, steps in by_store.items()]
    took = "still open" if record.duration is None else f"took {duration(record.duration)}"
    note = f"{record.state.value}, {took}; began {record.created_at:%Y-%m-%d %H:%M:%S} UTC"
    return Lanes(record.coordination_id, note, begin, end, lanes)


def _coordinator(record: CoordinationRecord, times: list[datetime]) -> Lane:
    """From its begin to the first question, and from the last vote to the first one told."""
    asked = [s.prepare_asked_at for s in record.stores if s.prepare_asked_at is not None]
    asked += [s.started_at for s in record.steps if s.started_at is not None]
    first = min(asked) if asked else record.completed_at
    began = record.created_at if first is None else min(record.created_at, first)
    spans = [Span("begin", began, first, "begin")]
    votes = [s.voted_at for s in record.stores if s.voted_at is not None]
    told = [s.delivery_asked_at for s in record.stores if s.delivery_asked_at is not None]
    decision = (record.decision or "no decision yet").lower()
    if votes and told and max(votes) <= min(told):
        spans.append(Span("decide", max(votes), min(told), f"decision: {decision}"))
    reason = f": {record.reason}" if record.reason else ""
    return Lane(COORDINATOR, spans, f"decision: {decision}{reason}")


def _of_votes(store: StoreRecord, record: CoordinationRecord) -> Lane:
    spans: list[Span] = []
    words: list[str] = []
    told, until = store.delivery_asked_at, store.acknowledged_at
    if store.prepare_asked_at is not None:
        # Where no vote came, the question lasted until the store was told, or to the end.
        voted = store.voted_at or told or record.completed_at
        vote = "no vote" if store.vote is None else f"voted {store.vote}"
        spans.append(Span("prepare", store.prepare_asked_at, voted, f"prepare: {vote}"))
        words.append(vote + _took(store.prepare_asked_at, store.voted_at))
        if store.voted_at is not None and told is not None and store.voted_at < told:
            spans.append(Span("wait", store.voted_at, told, "waits for the decision"))
    if told is not None:
        verb = (record.decision or "abort").lower()
        tries = f", {store.attempts} tries" if store.attempts > 1 else ""
        spans.append(Span(verb, told, until, f"{verb}{tries}"))
        is_open = "" if until is not None else ", not acknowledged"
        words.append(f"{verb}{_took(told, until)}{tries}{is_open}")
    return Lane(store.store, spans, "; ".join(words) or "never asked")


def _of_steps(store: str, steps: list[StepRecord], record: CoordinationRecord) -> Lane:
    spans: list[Span] = []
    for step in steps:
        if step.started_at is not None:
            tries = f", {step.attempts} tries" if step.attempts > 1 else ""
            # One that failed without a time of its own is over where its coordination is.
            end = step.completed_at or step.compensation_started_at or record.completed_at
            phase = "fail" if step.state == "failed" else "execute"
            spans.append(Span(phase, step.started_at, end, f"{step.operation_id}{tries}"))
        if step.compensation_started_at is not None:
            end = step.compensated_at or record.completed_at
            label = f"undoing {step.operation_id}"
            spans.append(Span("compensate", step.compensation_started_at, end, label))
    if len(steps) == 1:
        tries = f", {steps[0].attempts} tries" if steps[0].attempts > 1 else ""
        return Lane(store, spans, f"{steps[0].state}{tries}")
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.state] = counts.get(step.state, 0) + 1
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    return Lane(store, spans, f"{count_of(len(steps), 'step')}: {told}")


def _took(begin: datetime, end: datetime | None) -> str:
    return "" if end is None else f" {duration(end - begin)}"
