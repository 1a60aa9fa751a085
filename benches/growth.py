"""How rate and memory go with size: runs each point of each axis, and writes `growth.md`.

    python benches/growth.py [--rounds 3] [--quick]   # measures, writes the page
    python benches/growth.py --kept                   # writes the page anew from what is kept

Every point is a process of its own, the points of an axis run one after the other in each round.
Invariants: the page is written from `growth.jsonl` alone; a cliff is a fact of the page and
not of this program: it says what follows from the rate at the point before.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facts import machine_facts
from plots import curve
from summary import shortened

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = _ROOT / "docs" / "reference" / "growth.md"
_KEPT = _PAGE.with_suffix(".jsonl")
# Not among those of the benchmarks, which are written from other results.
_PLOTS = _PAGE.with_suffix("")
_CASE_SECONDS_MAX = 600
Row = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """One quantity that grows."""

    name: str
    points: tuple[int, ...]
    callers: int
    """0 where the quantity is the number of callers."""
    unit: str
    """What a rate of is told beside coordinations a second; empty for nothing."""
    words: str


AXES = (
    Axis(
        "concurrent coordinations",
        (1, 4, 16, 64, 256, 1_000, 4_000, 10_000),
        0,
        "",
        "As many callers, each with one coordination under way; `max_concurrent_coordinations` is "
        "as high.",
    ),
    Axis(
        "participants",
        (2, 5, 10, 20, 50),
        64,
        "participants",
        "Stores in each coordination, with one operation each; 64 callers.",
    ),
    Axis(
        "operations",
        (1, 10, 100, 1_000),
        16,
        "operations",
        "Operations in each coordination, over two stores (one of them for one operation); 16 "
        "callers.",
    ),
    Axis(
        "bytes of a value",
        (1, 1_024, 32_768, 1_048_576),
        16,
        "MiB",
        "Each coordination puts two such values into two MemoryStores; 16 callers. The journal "
        "keeps the request, values and all, so this is its disk's rate in the end.",
    ),
    Axis(
        "finished coordinations",
        (0, 10_000, 100_000, 1_000_000),
        64,
        "",
        "That many finished in the journal before the run; 64 callers.",
    ),
)


def main() -> None:
    """Measure what is asked for, and write the page."""
    given = _arguments()
    if not given.kept:
        facts = {**machine_facts(_ROOT / "target"), "rounds": given.rounds, "quick": given.quick}
        rows = [{"facts": facts}]
        rows += [row for number in range(given.rounds) for row in _round(number, given)]
        if given.quick:
            print("a quick run shows that it runs, and nothing else: no page is written")
            return
        _KEPT.write_text("".join(json.dumps(shortened(row)) + "\n" for row in rows))
    first, *rest = [json.loads(line) for line in _KEPT.read_text().splitlines()]
    _PAGE.write_text(page(first["facts"], rest))
    _PLOTS.mkdir(exist_ok=True)
    for name, picture in plots_of(rest).items():
        (_PLOTS / name).write_text(picture)
    print(f"wrote {_PAGE.relative_to(_ROOT)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How rate and memory go with size.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--quick", action="store_true", help="only see that everything runs")
    parser.add_argument("--kept", action="store_true", help="measure nothing")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.seconds = 1, 0.2
    return given


def _round(number: int, given: argparse.Namespace) -> list[Row]:
    rows = []
    for axis in AXES:
        for point in axis.points[:2] if given.quick else axis.points:
            print(f"{number + 1}/{given.rounds} {axis.name} {point:,}", file=sys.stderr)
            row = _run(axis, point, given.seconds)
            rows.append({"axis": axis.name, "point": point, "round": number, **row})
    return rows


def _run(axis: Axis, point: int, seconds: float) -> Row:
    folder = Path(tempfile.mkdtemp(prefix="growth-", dir=_ROOT / "target"))
    callers = axis.callers or point
    command = [sys.executable, "-m", "cases.growth", "--subject", axis.name]
    # Many callers need longer to come round.
    seconds = max(seconds, callers / 5_000)
    command += ["--callers", str(callers), "--seconds", str(seconds), "--count", str(point)]
    command += ["--folder", str(folder), "--warm-up", str(seconds / 4)]
    path = f"{_ROOT / 'python'}:{_ROOT / 'benches'}"
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
            timeout=_CASE_SECONDS_MAX,
        )
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{axis.name} {point}: {error.stderr.strip()[-500:]}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    row: Row = json.loads(done.stdout)
    return row


def medians(rows: list[Row], axis: Axis) -> dict[int, Row]:
    """The medians of each figure at each point."""
    found: dict[int, Row] = {}
    for point in axis.points:
        own = [row for row in rows if row["axis"] == axis.name and row["point"] == point]
        if own:
            names = ("rate", "p50_us", "p99_us", "cpu_us", "memory_mib")
            found[point] = {name: statistics.median(row[name] for row in own) for name in names}
    return found


def page(facts: Row, rows: list[Row]) -> str:
    """Write the whole page."""
    shown = ("date", "cores", "processor", "memory GiB", "kernel", "journals on", "python")
    lines = [f"| {name} | {facts[name]} |" for name in shown]
    preface = f"""\
# Growth

Written by `make bench-growth`; do not edit it by hand. One service, a SQLite journal with fsync,
two native `MemoryStore`s unless it says otherwise. Each point is a process of its own; figures are
medians of {facts["rounds"]} runs. Memory is the most that the process held, with the interpreter.

| | |
| --- | --- |
"""
    return "\n".join([preface + "\n".join(lines), "", *(_section(rows, axis) for axis in AXES)])


def _section(rows: list[Row], axis: Axis) -> str:
    header = [axis.name, "per second", "p50 us", "p99 us", "CPU us", "memory MiB"]
    if axis.unit:
        header.insert(2, f"{axis.unit} /s")
    table = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---:"] * len(header)) + " |"]
    for point, row in medians(rows, axis).items():
        cells = [f"{row['p50_us']:,.0f}", f"{row['p99_us']:,.0f}", f"{row['cpu_us']:,.1f}"]
        cells = [f"{point:,}", f"{row['rate']:,.0f}", *cells, f"{row['memory_mib']:,.0f}"]
        if axis.unit:
            times = point / 2**19 if axis.unit == "MiB" else point
            cells.insert(2, f"{row['rate'] * times:,.0f}" if times > 1e-3 else "-")
        table.append("| " + " | ".join(cells) + " |")
    picture = f"![per second by {axis.name}](growth/{_file_of(axis)})"
    return "\n".join([f"## {axis.name.capitalize()}", "", axis.words, "", *table, "", picture, ""])


def _file_of(axis: Axis) -> str:
    return f"{axis.name.replace(' ', '-')}.svg"


def plots_of(rows: list[Row]) -> dict[str, str]:
    """A picture for each axis, by its file."""
    pictures = {}
    for axis in AXES:
        points = {point: row["rate"] for point, row in medians(rows, axis).items()}
        pictures[_file_of(axis)] = curve(f"Coordinations per second by {axis.name}", points)
    return pictures


if __name__ == "__main__":
    main()
