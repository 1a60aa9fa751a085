"""`unanimity stuck`: what is in doubt, waits, or is parked; why, and the next step.

It reads the journal's open coordinations and their parked steps, and decides nothing. What a live
process moves along is not stuck. Invariant: every row has a reason and something to do.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from .._display import moment, plain, text_table
from .._records import CoordinationRecord, history_filter
from .._steps import DeadLetter
from .._types import CoordinationType, TransactionState
from .journal import reading
from .output import print_json, say

if TYPE_CHECKING:
    from .._engine import JournalReader

OPEN_MAX = 10_000
_HEADERS = ("kind", "coordination", "state", "since")


@dataclass(frozen=True)
class Stuck:
    """One thing that does not move by itself, or not soon.

    `kind` is "parked" (a step whose tries are spent), "operator" (a store gave a contrary final
    word), "in doubt" (whether it is decided is not known), "orphaned" (its process is dead), or
    "waiting" (nothing has moved for a while, or its time is over).
    """

    kind: str
    coordination_id: str
    operation_id: str | None
    state: str
    since: datetime
    why: str
    next_step: str

    def row(self) -> tuple[object, ...]:
        """The short row; why and the next step have lines of their own."""
        return self.kind, self.coordination_id, self.state, moment(self.since)


@dataclass(frozen=True)
class Look:
    """The open coordinations of a journal at one moment, and which of them are stuck."""

    open: list[CoordinationRecord]
    alive: frozenset[str]
    stuck: list[Stuck]


def look(reader: JournalReader, after_seconds: float, alive: list[str]) -> Look:
    """See what is open, and why it does not end. `alive`: the processes that live."""
    rows = reader.history(history_filter(None, None, None, None, OPEN_MAX, only_open=True))
    records = [CoordinationRecord.from_engine(row) for row in rows]
    letters = [DeadLetter.from_engine(row) for row in reader.dead_letters()]
    # This process looks, and owns nothing.
    owners = frozenset(alive) - {reader.instance()}
    stuck = list(_stuck(records, letters, owners, after_seconds))
    return Look(records, owners, stuck)


def _stuck(
    records: list[CoordinationRecord],
    letters: list[DeadLetter],
    alive: frozenset[str],
    after_seconds: float,
) -> Iterator[Stuck]:
    """The parked steps, then everything else that is open and stands, the oldest first."""
    owners = {record.coordination_id: record.owner for record in records}
    states = {record.coordination_id: record.state.value for record in records}
    for letter in letters:
        state = states.get(letter.coordination_id, "parked")
        yield _parked(letter, state, owners.get(letter.coordination_id) in alive)
    parked = {letter.coordination_id for letter in letters}
    now = datetime.now(timezone.utc)
    for record in reversed(records):
        if record.coordination_id not in parked:
            yield from _judged(record, record.owner in alive, now, after_seconds)


def _parked(letter: DeadLetter, state: str, is_driven: bool) -> Stuck:
    tries = f"{letter.attempts} tries" if letter.attempts != 1 else "1 try"
    word = f"'{letter.operation_type}' at {letter.store} was given up after {tries}"
    redrive = f"unanimity redrive {letter.operation_id}"
    return Stuck(
        kind="parked",
        coordination_id=letter.coordination_id,
        operation_id=letter.operation_id,
        state=state,
        since=letter.parked_at,
        why=f"{word}: {letter.error_message}",
        next_step="mend the cause, then service.redrive() in its process"
        if is_driven
        else f"mend the cause, then `{redrive}`",
    )


def _judged(
    record: CoordinationRecord, is_driven: bool, now: datetime, after_seconds: float
) -> Iterator[Stuck]:
    found = _kind_of(record, is_driven, now, after_seconds)
    if found is not None:
        kind, why, step = found
        yield Stuck(
            kind=kind,
            coordination_id=record.coordination_id,
            operation_id=None,
            state=record.state.value,
            since=record.updated_at,
            why=why,
            next_step=step,
        )


def _kind_of(
    record: CoordinationRecord, is_driven: bool, now: datetime, after_seconds: float
) -> tuple[str, str, str] | None:
    """The kind, why, and what to do; None for what moves."""
    stores = ", ".join(record.participating_stores)
    if record.state is TransactionState.FAILED:
        word = record.error_message or "a store gave its own contrary word"
        resolve = f"unanimity resolve {record.coordination_id} commit|abort --reason ..."
        where = "service.resolve() in its process" if is_driven else f"`{resolve}`"
        return "operator", word, f"put the store right, then {where}"
    if not is_driven:
        why = f"its process {record.owner} is dead"
        return "orphaned", why, f"{_heirs(stores)}: {_future(record)}"
    is_late = now - record.created_at > timedelta(seconds=record.timeout_seconds)
    has_stood = now - record.updated_at > timedelta(seconds=after_seconds)
    if not is_late and not has_stood:
        return None
    note = f": {record.error_message}" if record.error_message else ""
    if record.decision is not None:
        why = f"decided to {record.decision.lower()}, and not every store has acknowledged{note}"
        return "waiting", why, f"see to its stores ({stores}); it is delivered until it is taken"
    # At its deadline a live process aborts what it knows to be undecided.
    is_asked = is_late and record.coordination_type is CoordinationType.TWO_PHASE_COMMIT
    if is_asked or record.state is TransactionState.PREPARED:
        why = f"its {record.timeout_seconds:g} s are over, and whether it is decided is not known"
        return "in doubt", why, "it is asked again by itself; see `unanimity raft status`"
    why = f"nothing has moved since {moment(record.updated_at)}{note}"
    return "waiting", why, f"see to its stores ({stores}); its process goes on by itself"


def _heirs(stores: str) -> str:
    return f"start a service with its stores ({stores}), or `unanimity recover`"


def _future(record: CoordinationRecord) -> str:
    """What becomes of it when somebody takes it over."""
    if record.decision is not None:
        return "it will be finished"
    if record.coordination_type is CoordinationType.TWO_PHASE_COMMIT:
        return "it will be rolled back, unless a cluster has decided it"
    return "it goes on where it stood"


def _text(shown: list[Stuck]) -> str:
    """A table, and below each row why, and what to do."""
    head, rule, *rows = text_table(_HEADERS, [one.row() for one in shown], None).splitlines()
    lines = [head, rule]
    for row, one in zip(rows, shown, strict=True):
        lines += [row, f"    why   {plain(one.why)}", f"    next  {plain(one.next_step)}"]
    return "\n".join(lines)


def stuck_verb(arguments: Namespace) -> int:
    """List what does not move; 1 if there is any."""
    with reading(arguments.journal) as reader:
        found = look(reader, arguments.after, reader.status()["instances_alive"]).stuck
    shown = found[: arguments.limit]
    if arguments.json:
        print_json(shown)
    elif shown:
        say(_text(shown))
        if len(found) > len(shown):
            say(f"and {len(found) - len(shown)} more: give a larger --limit")
    else:
        say("nothing is stuck")
    return 1 if found else 0
