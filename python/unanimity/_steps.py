"""What the journal tells about the operations of sagas and eventual coordinations.

Plain data made from the engine's dicts. Not the coordinations themselves: those are `_records`.
Invariant: every time is an aware UTC datetime.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def time_of(microseconds: int | None) -> datetime | None:
    """Make a time of the engine's microseconds since 1970."""
    # Through a timedelta, because floats of seconds lose microseconds.
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def certain_time_of(microseconds: int) -> datetime:
    """Make a time of microseconds that are there."""
    return _EPOCH + timedelta(microseconds=microseconds)


@dataclass(frozen=True)
class StepRecord:
    """What one operation did within a coordination by steps.

    `state` is "pending", "executing", "completed", "failed", "compensating", "compensated" or
    "parked"; `result` is what the operation gave, None where it gave nothing or is not done.
    """

    operation_id: str
    state: str
    attempts: int
    compensation_attempts: int
    result: Any
    note: str | None
    started_at: datetime | None
    completed_at: datetime | None
    compensation_started_at: datetime | None
    compensated_at: datetime | None

    @classmethod
    def from_engine(cls, row: dict[str, Any]) -> StepRecord:
        """Make it of the engine's dict."""
        return cls(
            operation_id=row["operation_id"],
            state=row["state"],
            attempts=row["attempts"],
            compensation_attempts=row["compensation_attempts"],
            result=row["result"],
            note=row["note"],
            started_at=time_of(row["started_at"]),
            completed_at=time_of(row["completed_at"]),
            compensation_started_at=time_of(row["compensation_started_at"]),
            compensated_at=time_of(row["compensated_at"]),
        )

    def moments(self) -> list[tuple[datetime, str]]:
        """What happened to it, and when."""
        done = "failed" if self.state == "failed" else "completed"
        trouble = f": {self.note}" if self.note and self.state == "failed" else ""
        again = f" ({self.attempts} tries)" if self.attempts > 1 else ""
        happened = (
            (self.started_at, f"{self.operation_id} started"),
            (self.completed_at, f"{self.operation_id} {done}{again}{trouble}"),
            (self.compensation_started_at, f"{self.operation_id} compensation started"),
            (self.compensated_at, f"{self.operation_id} compensated"),
        )
        return [(at, what) for at, what in happened if at is not None]


@dataclass(frozen=True)
class DeadLetter:
    """A step whose tries are spent: it waits for `redrive`, or for an operator's `resolve`.

    `work` is "execute" or "compensate"; `attempts` counts the tries of that work.
    """

    coordination_id: str
    operation_id: str
    store: str
    operation_type: str
    work: str
    attempts: int
    error_message: str
    parked_at: datetime

    @classmethod
    def from_engine(cls, row: dict[str, Any]) -> DeadLetter:
        """Make it of the engine's dict."""
        return cls(**{**row, "parked_at": certain_time_of(row["parked_at"])})

    def __str__(self) -> str:
        return (
            f"{self.operation_id} of {self.coordination_id}: {self.work} {self.operation_type} at "
            f"'{self.store}' failed {self.attempts} times, last: {self.error_message}"
        )
