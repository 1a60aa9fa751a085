"""What the journal tells about coordinations: records, timelines, histories, recovery reports.

Plain data made from the engine's dicts; nothing here reads a journal itself.
Invariant: every time is an aware UTC datetime.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, overload

from . import _display
from ._exceptions import InvalidRequest
from ._steps import StepRecord, certain_time_of, time_of
from ._types import CoordinationType, Outcome, TransactionState

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True)
class StoreRecord:
    """What one store did within a coordination."""

    store: str
    vote: str | None
    note: str | None
    prepare_asked_at: datetime | None
    voted_at: datetime | None
    delivery_asked_at: datetime | None
    acknowledged_at: datetime | None
    attempts: int

    @classmethod
    def from_engine(cls, row: dict[str, Any]) -> StoreRecord:
        """Make it of the engine's dict."""
        return cls(
            store=row["store"],
            vote=row["vote"],
            note=row["note"],
            prepare_asked_at=time_of(row["prepare_asked_at"]),
            voted_at=time_of(row["voted_at"]),
            delivery_asked_at=time_of(row["delivery_asked_at"]),
            acknowledged_at=time_of(row["acknowledged_at"]),
            attempts=row["attempts"],
        )


@dataclass(frozen=True)
class TimelineEntry:
    """One thing that happened, and when; `store` is None for the coordination itself."""

    at: datetime
    store: str | None
    what: str


@dataclass(frozen=True)
class CoordinationRecord:
    """Everything that is known about one coordination."""

    coordination_id: str
    coordination_type: CoordinationType
    state: TransactionState
    participating_stores: list[str]
    operations: list[dict[str, Any]]
    timeout_seconds: float
    consistency_level: str
    metadata: dict[str, Any]
    owner: str
    epoch: int
    decision: str | None
    reason_code: str | None
    reason: str | None
    outcome: Outcome | None
    code: str | None
    error_message: str | None
    operations_completed: int
    operations_failed: int
    stores: list[StoreRecord]
    steps: list[StepRecord]
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None

    @classmethod
    def from_engine(cls, row: dict[str, Any]) -> CoordinationRecord:
        """Make it of the engine's dict."""
        reason, outcome = row["reason"] or {}, row["outcome"] or {}
        return cls(
            coordination_id=row["coordination_id"],
            coordination_type=CoordinationType(row["coordination_type"]),
            state=TransactionState(row["state"]),
            participating_stores=list(row["participating_stores"]),
            operations=list(row["operations"]),
            timeout_seconds=row["timeout_seconds"],
            consistency_level=row["consistency_level"],
            metadata=dict(row["metadata"]),
            owner=row["owner"],
            epoch=row["epoch"],
            decision=row["decision"],
            reason_code=reason.get("code"),
            reason=reason.get("message"),
            outcome=Outcome(outcome["kind"]) if outcome else None,
            code=outcome.get("code"),
            error_message=row["error_message"],
            operations_completed=outcome.get("operations_completed", 0),
            operations_failed=outcome.get("operations_failed", 0),
            stores=[StoreRecord.from_engine(store) for store in row["stores"]],
            steps=[StepRecord.from_engine(step) for step in row["steps"]],
            created_at=certain_time_of(row["created_at"]),
            updated_at=certain_time_of(row["updated_at"]),
            completed_at=time_of(row["completed_at"]),
        )

    @property
    def duration(self) -> timedelta | None:
        """How long it took from beginning to end, None while it has not ended."""
        return None if self.completed_at is None else self.completed_at - self.created_at

    def timeline(self) -> list[TimelineEntry]:
        """What happened, in order of time."""
        began = TimelineEntry(self.created_at, None, "began")
        entries: list[TimelineEntry] = []
        verb = (self.decision or "delivery").lower()
        for store in self.stores:
            vote = f"voted {store.vote}" + (f": {store.note}" if store.note else "")
            steps = (
                (store.prepare_asked_at, "asked to prepare"),
                (store.voted_at, vote),
                (store.delivery_asked_at, f"told to {verb}"),
                (store.acknowledged_at, f"acknowledged {verb}"),
            )
            entries += [TimelineEntry(at, store.store, what) for at, what in steps if at]
        store_of = {one["operation_id"]: one["store"] for one in self.operations}
        for step in self.steps:
            store_name = store_of.get(step.operation_id)
            entries += [TimelineEntry(at, store_name, what) for at, what in step.moments()]
        # Sorting is stable, so what happened in one microsecond stays in the order of the protocol.
        # The ends stay at the ends, though a record is stamped a little beside what it records.
        entries = [began, *sorted(entries, key=lambda entry: entry.at)]
        if self.completed_at is not None:
            word = self.outcome.value if self.outcome else self.state.value
            entries.append(TimelineEntry(self.completed_at, None, f"ended: {word}"))
        return entries

    def __str__(self) -> str:
        return _display.record_text(self)

    def _repr_html_(self) -> str:
        return _display.record_html(self)


class History(Sequence[CoordinationRecord]):
    """Coordinations, the latest first. Acts as a list that cannot be changed."""

    def __init__(self, records: Iterable[CoordinationRecord]) -> None:
        """Keep the records in their order."""
        self._records = list(records)

    @overload
    def __getitem__(self, index: int) -> CoordinationRecord: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: int | slice) -> CoordinationRecord | History:
        """Give one record, or a shorter history."""
        if isinstance(index, slice):
            return History(self._records[index])
        return self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, History):
            return self._records == other._records
        return self._records == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def to_pandas(self) -> Any:
        """Make a DataFrame, a row for each coordination; pandas must be installed."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_pandas() needs pandas, which is not installed; "
                "pip install 'unanimity[notebook]'"
            ) from error
        return pandas.DataFrame([_row(record) for record in self], columns=list(_COLUMNS))

    def __repr__(self) -> str:
        return f"History({len(self)} coordinations)" if len(self) > 50 else str(self)

    def __str__(self) -> str:
        return _display.history_text(self)

    def _repr_html_(self) -> str:
        return _display.history_html(self)


_COLUMNS = (
    "coordination_id",
    "coordination_type",
    "state",
    "outcome",
    "participating_stores",
    "operations",
    "decision",
    "created_at",
    "completed_at",
    "duration",
    "code",
    "error_message",
)


def _row(record: CoordinationRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _COLUMNS}
    row["coordination_type"] = record.coordination_type.value
    row["state"] = record.state.value
    row["outcome"] = record.outcome.value if record.outcome else None
    row["operations"] = len(record.operations)
    return row


@dataclass(frozen=True)
class RecoveryReport:
    """What a recovery did: lists of coordination ids."""

    committed: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    compensated: list[str] = field(default_factory=list)
    in_doubt: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return ", ".join(f"{len(ids)} {name}" for name, ids in vars(self).items())

    def _repr_html_(self) -> str:
        return _display.report_html(self)


def history_filter(
    state: TransactionState | str | Iterable[TransactionState | str] | None,
    coordination_type: CoordinationType | str | None,
    store: str | None,
    since: datetime | None,
    limit: int,
    *,
    until: datetime | None = None,
    only_open: bool = False,
) -> dict[str, Any]:
    """Check what to list, and put it in the engine's form."""
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.utcoffset() is None:
            raise InvalidRequest(
                f"{name} is {moment!r}, which has no time zone; give an aware datetime, "
                "such as datetime.now(timezone.utc)"
            )
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidRequest(f"limit is {limit!r}; give a whole number from 1")
    alone = state is None or isinstance(state, (str, TransactionState))
    states = ([] if state is None else [state]) if alone else list(state)  # type: ignore[arg-type]
    return {
        "states": [_member(TransactionState, one, "state") for one in states],
        "coordination_type": None
        if coordination_type is None
        else _member(CoordinationType, coordination_type, "coordination_type"),
        "store": store,
        "since": None if since is None else _microseconds(since),
        "until": None if until is None else _microseconds(until),
        "open": only_open,
        "limit": limit,
    }


def _member(kind: type[TransactionState] | type[CoordinationType], given: object, what: str) -> str:
    try:
        return str(kind(given).value)
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise InvalidRequest(f"{what} is {given!r}; use one of {known}") from None
