"""What the journal tells about coordinations: records, histories, recovery reports.

Plain data made from the engine's dicts; nothing here reads a journal itself.
Invariant: every time is an aware UTC datetime.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, overload

from ._exceptions import InvalidRequest
from ._record_frames import frame_of
from ._steps import StepRecord, certain_time_of, time_of
from ._timeline import Timeline, timeline_of
from ._types import CoordinationType, Outcome, TransactionState
from ._views.coordinations import history_view, record_view, report_view
from ._views.frames import Column, Framed, to_arrow, to_pandas
from ._views.model import View
from ._views.viewed import Drawn, Viewed
from ._views.words import count_of, duration

__all__ = [
    "CoordinationRecord",
    "History",
    "RecoveryReport",
    "StoreRecord",
    "history_filter",
]

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


@dataclass(frozen=True, repr=False)
class CoordinationRecord(Drawn):
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

    @property
    def is_saga(self) -> bool:
        """Whether it is a saga whose steps can be drawn."""
        return self.coordination_type is CoordinationType.SAGA_ORCHESTRATION

    def timeline(self) -> Timeline:
        """What happened, in order of time: a list that draws itself, a lane for each store."""
        return timeline_of(self)

    def _view(self) -> View:
        return record_view(self)

    # In a notebook the card has the picture already.
    _repr_svg_ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        took = "open" if self.duration is None else duration(self.duration)
        return (
            f"CoordinationRecord({self.coordination_id!r}, {self.coordination_type.value}, "
            f"{self.state.value}, {count_of(len(self.participating_stores), 'store')}, {took})"
        )


class History(Sequence[CoordinationRecord], Viewed, Framed):
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

    def to_pandas(self, rows: str = "coordinations") -> Any:
        """Make a DataFrame; pandas must be installed.

        A row for each coordination, or for each of their "stores", "operations" or "steps".
        """
        return to_pandas(*frame_of(self._records, rows))

    def to_arrow(self, rows: str = "coordinations") -> Any:
        """Make a pyarrow Table; pyarrow must be installed. The rows are as in `to_pandas`."""
        return to_arrow(*frame_of(self._records, rows))

    def _frame(self) -> tuple[Sequence[Column], Sequence[Any]]:
        return frame_of(self._records, "coordinations")

    def _view(self) -> View:
        return history_view(self._records)

    def __repr__(self) -> str:
        return f"History({len(self)} coordinations)" if len(self) > 50 else str(self)

    def __str__(self) -> str:
        return self.to_text()


@dataclass(frozen=True, repr=False)
class RecoveryReport(Viewed):
    """What a recovery did: lists of coordination ids."""

    committed: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    compensated: list[str] = field(default_factory=list)
    in_doubt: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return ", ".join(f"{len(ids)} {name}" for name, ids in vars(self).items())

    def __repr__(self) -> str:
        return f"RecoveryReport({self})"

    def _view(self) -> View:
        return report_view(self)


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
