"""What stands under the name of a metric, and its lines in the text format 0.0.4 of Prometheus.

Not the collecting, and no checks. Invariant: whatever a label's value or a help text holds, a
line is one line, and reads back as what it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

_ACROSS: dict[str, Callable[[tuple[float, float]], float]] = {
    "sum": sum,
    "highest": max,
    "lowest": min,
}

Labels = tuple[tuple[str, str], ...]
"""Pairs of a name and a value, in the order of the names."""


@dataclass
class Buckets:
    """Observations by upper bound; the last count is of those above all bounds."""

    counts: list[int]
    total: float = 0.0

    def add(self, other: Buckets) -> None:
        self.counts = [
            mine + others for mine, others in zip(self.counts, other.counts, strict=True)
        ]
        self.total += other.total


@dataclass
class Family:
    """Everything under one name."""

    kind: str
    help: str = ""
    bounds: tuple[float, ...] = ()
    label_names: tuple[str, ...] | None = None
    across: str = "sum"
    samples: dict[Labels, float | Buckets] = field(default_factory=dict)
    is_full: bool = False

    def take(self, labels: Labels, value: float | Buckets) -> None:
        """Take in what another service says of the same."""
        known = self.samples.get(labels)
        if isinstance(value, Buckets):
            if isinstance(known, Buckets):
                known.add(value)
            else:
                self.samples[labels] = Buckets(list(value.counts), value.total)
        elif isinstance(known, (int, float)):
            self.samples[labels] = _ACROSS[self.across]((known, value))
        else:
            self.samples[labels] = value


def lines_of(name: str, family: Family) -> list[str]:
    """Give the lines of one name: its help, its type, and its values in the order of labels."""
    lines = []
    if family.help:
        text = family.help.replace("\\", r"\\").replace("\n", r"\n")
        lines.append(f"# HELP {name} {text}")
    lines.append(f"# TYPE {name} {family.kind}")
    for labels, value in sorted(family.samples.items()):
        if isinstance(value, Buckets):
            lines += _histogram_lines(name, labels, family.bounds, value)
        else:
            lines.append(f"{name}{_label_text(labels)} {_number_text(value)}")
    return lines


def _histogram_lines(
    name: str, labels: Labels, bounds: tuple[float, ...], value: Buckets
) -> list[str]:
    lines, so_far = [], 0
    for bound, count in zip((*bounds, math.inf), value.counts, strict=True):
        so_far += count
        text = _label_text((*labels, ("le", _number_text(bound))))
        lines.append(f"{name}_bucket{text} {so_far}")
    lines.append(f"{name}_sum{_label_text(labels)} {_number_text(value.total)}")
    lines.append(f"{name}_count{_label_text(labels)} {so_far}")
    return lines


def _label_text(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels)
    return f"{{{pairs}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number_text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 2**53:
        return str(int(value))
    return repr(float(value))
