"""How long coordinations took: percentiles over what the journal says of those that ended.

From the begin to the end in the journal, so the last store's acknowledgement is in it, and what a
caller waited for is a little less. Not a metric: nothing is measured or kept here, and the count is
bounded. Invariant: a percentile is a length that some coordination took (the nearest rank).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ._types import CoordinationType, TransactionState
from ._views.frames import Column, Framed, milliseconds
from ._views.model import State, Table, View
from ._views.viewed import Viewed
from ._views.words import count_of, duration, moment

if TYPE_CHECKING:
    from ._records import CoordinationRecord

LATENCY_COORDINATIONS_MAX = 10_000


@dataclass(frozen=True)
class LatencyRow:
    """How long the coordinations of one type took that ended in one state."""

    coordination_type: CoordinationType
    state: TransactionState
    count: int
    p50: timedelta
    p90: timedelta
    p99: timedelta
    max: timedelta


class Latency(Sequence[LatencyRow], Viewed, Framed):
    """Rows by type and state, the most frequent first. Acts as a list that cannot be changed."""

    def __init__(self, records: Iterable[CoordinationRecord]) -> None:
        """Count what has ended among the records."""
        took: dict[tuple[CoordinationType, TransactionState], list[timedelta]] = {}
        begun: list[datetime] = []
        for record in records:
            if record.duration is not None:
                took.setdefault((record.coordination_type, record.state), []).append(
                    record.duration
                )
                begun.append(record.created_at)
        self._rows = sorted(
            (_row(kind, state, sorted(lengths)) for (kind, state), lengths in took.items()),
            key=lambda row: (-row.count, row.coordination_type.value, row.state.value),
        )
        self.coordinations = len(begun)
        """How many these are."""
        self.since = min(begun, default=None)
        """When the first of them began."""

    def __getitem__(self, index: int) -> LatencyRow:  # type: ignore[override]
        """Give one row."""
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def _view(self) -> View:
        columns = ("type", "ended", "count", "p50", "p90", "p99", "max")
        rows = [
            (r.coordination_type.value, State(r.state.value), r.count, r.p50, r.p90, r.p99, r.max)
            for r in self
        ]
        title = f"{count_of(self.coordinations, 'coordination')} that ended"
        title += "" if self.since is None else f", since {moment(self.since)}"
        data = {"coordinations": self.coordinations, "since": self.since, "rows": list(self)}
        return View(title, data, (Table("", columns, rows, "no coordination has ended yet"),))

    def _frame(self) -> tuple[Sequence[Column], Sequence[LatencyRow]]:
        return _COLUMNS, self._rows

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        rows = ", ".join(
            f"{r.coordination_type.value} {r.state.value}: p50 {duration(r.p50)}" for r in self
        )
        return (
            f"Latency({count_of(self.coordinations, 'coordination')}{': ' if rows else ''}{rows})"
        )


def _row(
    kind: CoordinationType, state: TransactionState, lengths: Sequence[timedelta]
) -> LatencyRow:
    def at(percent: int) -> timedelta:
        # The nearest rank: the smallest length that so many percent do not exceed.
        return lengths[-(-len(lengths) * percent // 100) - 1]

    return LatencyRow(kind, state, len(lengths), at(50), at(90), at(99), lengths[-1])


def _length(name: str) -> Column:
    return Column(f"{name}_ms", "number", lambda row: milliseconds(getattr(row, name)))


_COLUMNS = (
    Column("coordination_type", "text", lambda row: row.coordination_type.value),
    Column("state", "text", lambda row: row.state.value),
    Column("count", "whole", lambda row: row.count),
    *(_length(name) for name in ("p50", "p90", "p99", "max")),
)
