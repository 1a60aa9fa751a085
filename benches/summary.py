"""Rows of single runs into medians, and medians against goals. Nothing is printed here.

Invariants: a median is of runs of one subject at one number of callers; a goal without a
measurement is missed, not met.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from plan import Workload

Row = dict[str, Any]
_ABOUT = ("workload", "round", "subject", "callers", "failed")


@dataclass(frozen=True)
class Figure:
    """One figure over several runs."""

    median: float
    least: float
    greatest: float


@dataclass(frozen=True)
class Cell:
    """One subject at one number of callers."""

    subject: str
    callers: int
    runs: int
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Verdict:
    """One goal, and whether it is met."""

    goal: str
    measured: str
    met: bool


def cells_of(rows: Iterable[Row]) -> list[Cell]:
    """Group by callers, then by subject, in the order of the plan's first round."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        if "failed" not in row:
            groups.setdefault((row["callers"], row["subject"]), []).append(row)
    cells = []
    for (callers, subject), group in groups.items():
        names = [name for name in group[0] if name not in _ABOUT]
        figures = {name: _figure([row[name] for row in group]) for name in names}
        if "full_rate" in figures:
            figures["slowdown"] = _figure([row["empty_rate"] / row["full_rate"] for row in group])
        cells.append(Cell(subject, callers, len(group), figures))
    return sorted(cells, key=lambda cell: cell.callers)


def _figure(values: list[float]) -> Figure:
    return Figure(statistics.median(values), min(values), max(values))


def shortened(row: Row) -> Row:
    """A row with five figures of each number, to be kept: more is noise."""
    return {
        name: float(f"{each:.5g}") if isinstance(each, float) else each
        for name, each in row.items()
    }


def failures_of(rows: Iterable[Row]) -> list[str]:
    """Name what could not run, each reason once."""
    texts = {
        f"{row['subject']}"
        + (f" at {row['callers']}" if row.get("callers") else "")
        + f": {row['failed']}": None
        for row in rows
        if "failed" in row
    }
    return list(texts)


def verdicts_of(workload: Workload, cells: list[Cell]) -> list[Verdict]:
    """Hold what was measured against the workload's goals."""
    verdicts = []
    ours = workload.subjects[0].name
    for peer, by_callers in workload.relative_goals.items():
        for callers, goal in by_callers.items():
            rate, other = (_median(cells, name, callers, "rate") for name in (ours, peer))
            times = None if rate is None or other is None else rate / other
            verdicts.append(
                Verdict(
                    f"at {callers}: {goal:.3g}x {peer}",
                    "not measured" if times is None else f"{times:.2f}x",
                    times is not None and times >= goal,
                )
            )
    for (subject, name), limit in workload.limits.items():
        found = [cell for cell in cells if cell.subject == subject and name in cell.figures]
        value = found[0].figures[name].median if found else None
        verdicts.append(
            Verdict(
                f"{subject}: {name} at most {limit:g}",
                "not measured" if value is None else f"{value:.3g}",
                value is not None and value <= limit,
            )
        )
    return verdicts


def _median(cells: list[Cell], subject: str, callers: int, name: str) -> float | None:
    for cell in cells:
        if cell.subject == subject and cell.callers == callers and name in cell.figures:
            return cell.figures[name].median
    return None
