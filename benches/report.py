"""Tables of what was measured: on the screen after each workload, and as `benchmarks.md`.

    python benches/report.py        # reads target/bench/results.jsonl, writes the page
    python benches/report.py --kept # writes it anew from the results beside the page

The results themselves are kept beside the page, as `benchmarks.jsonl`; the table of the README and
the plots come from them too.

Invariants: all is written from the results alone, says how each subject is set up and which
goals are missed, and is not written from a run that only tried whether everything works.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from plan import WORKLOADS, Workload
from plots import plot
from summary import Cell, cells_of, failures_of, shortened, verdicts_of

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = _ROOT / "docs" / "reference" / "benchmarks.md"
_KEPT = _PAGE.with_suffix(".jsonl")
_PLOTS = _PAGE.parent / "plots"
_README = _ROOT / "README.md"
_MARKS = ("<!-- measured -->", "<!-- end of measured -->")
_RESULTS = _ROOT / "target" / "bench" / "results.jsonl"
_COLUMNS = {
    "rate": ("per second", "{:,.0f}"),
    "settled_rate": ("settled /s", "{:,.0f}"),
    "empty_rate": ("burst, empty /s", "{:,.0f}"),
    "full_rate": ("burst, full /s", "{:,.0f}"),
    "slowdown": ("slowdown", "{:.2f}x"),
    "seconds": ("seconds", "{:.2f}"),
    "start_seconds": ("of it start() s", "{:.2f}"),
    "slowest_seconds": ("slowest s", "{:.2f}"),
    "p50_us": ("p50 us", "{:,.0f}"),
    "p99_us": ("p99 us", "{:,.0f}"),
    "cpu_us": ("CPU us", "{:.1f}"),
    "server_cpu_us": ("server CPU us", "{:.1f}"),
    "connections": ("connections", "{:.0f}"),
    "memory_mib": ("memory MiB", "{:.0f}"),
    "journal_mib": ("journal MiB", "{:.0f}"),
    "ms": ("ms", "{:.1f}"),
    "mib": ("MiB", "{:.1f}"),
    "count": ("count", "{:.0f}"),
}
# A run's length is set by the driver, except where it is what is measured.
_TIMED = ("sustained", "recovery")
_PREFACE = """\
# Benchmarks

Written by `make bench-docs` from what `make bench` measured; do not edit it by hand. Every run is a
process of its own; ours and the peers run in turn, on the same machine, and each round begins with
another one. All callers are tasks of one asyncio loop, each with one operation under way. Figures
are medians of {rounds} runs of {seconds:g} s after a warm-up, with the least and the greatest rate.
CPU is the time of the whole client process, its threads included, for each operation; that of a
server's processes stands beside it. Clients and servers share the cores.
Journals and databases are on disk with fsync on. Absolute figures belong to this machine and its
mood: compare within a table. So a goal is a ratio to a peer beside it; one that was set as a rate
was set where the peer had a known rate, and is the quotient of the two (`benches/plan.py`).
"""


def screen_table(workload: Workload, rows: list[dict[str, Any]]) -> str:
    """Lay out a workload for people at a terminal."""
    header, lines = _table(workload, cells_of(rows))
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    text = [f"\n{workload.title}"]
    for line in [header, *lines]:
        first = line[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        text.append("  ".join([first, *rest]))
    for verdict in verdicts_of(workload, cells_of(rows)):
        text.append(f"{'met   ' if verdict.met else 'MISSED'} {verdict.goal} ({verdict.measured})")
    text += [f"CANNOT RUN  {each}" for each in failures_of(rows)]
    return "\n".join(text)


def _table(workload: Workload, cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """The header and the lines: subject, callers, and every figure that was measured."""
    names = [name for name in _COLUMNS if any(name in cell.figures for cell in cells)]
    if workload.name not in _TIMED and "rate" in names:
        names = [name for name in names if name != "seconds"]
    has_rate = "rate" in names
    header = ["subject", "callers"] if has_rate else ["subject"]
    for name in names:
        header += [_COLUMNS[name][0]] + (["least", "greatest"] if name == "rate" else [])
    return header, [_line(cell, names, has_rate) for cell in cells]


def _line(cell: Cell, names: list[str], has_rate: bool) -> list[str]:
    line = [cell.subject] + ([str(cell.callers)] if has_rate else [])
    for name in names:
        figure, form = cell.figures.get(name), _COLUMNS[name][1]
        if name == "rate" and figure is not None:
            line += [form.format(each) for each in (figure.median, figure.least, figure.greatest)]
        elif name == "rate":
            line += ["", "", ""]
        else:
            line.append("" if figure is None else form.format(figure.median))
    return line


def page(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Write the whole page."""
    parts = [_PREFACE.format(rounds=facts["rounds"], seconds=facts["seconds"]), _machine(facts)]
    sections, missed = [], []
    for workload in WORKLOADS:
        own = [row for row in rows if row["workload"] == workload.name]
        if not own:
            missed.append(f"- {workload.title}: not run")
            continue
        sections.append(_section(workload, own))
        missed += [
            f"- {workload.title}, {verdict.goal}: {verdict.measured}"
            for verdict in verdicts_of(workload, cells_of(own))
            if not verdict.met
        ]
        missed += [f"- {workload.title}, cannot run: {each}" for each in failures_of(own)]
    parts.append(
        "## Where we miss a goal\n\n" + ("\n".join(missed) or "Nowhere in this run.") + "\n"
    )
    return "\n".join(parts + sections)


def _machine(facts: dict[str, Any]) -> str:
    shown = [name for name in facts if name not in ("rounds", "seconds", "quick")]
    lines = [f"| {name} | {facts[name]} |" for name in shown]
    return "\n".join(["## Machine and versions", "", "| | |", "| --- | --- |", *lines, ""])


def _section(workload: Workload, rows: list[dict[str, Any]]) -> str:
    cells = cells_of(rows)
    header, lines = _table(workload, cells)
    rule = ["---"] + ["---:"] * (len(header) - 1)
    text = [f"## {workload.title}", ""]
    text += [f"- **{each.name}**: {each.how}." for each in workload.subjects]
    text += ["", *("| " + " | ".join(line) + " |" for line in [header, rule, *lines])]
    if len({cell.callers for cell in cells if "rate" in cell.figures}) > 1:
        text += ["", f"![{workload.title}, per second](plots/{workload.name}.svg)"]
    verdicts = verdicts_of(workload, cells)
    if verdicts:
        text += ["", "| goal | measured | |", "| --- | ---: | --- |"]
        text += [
            f"| {each.goal} | {each.measured} | {'met' if each.met else '**missed**'} |"
            for each in verdicts
        ]
    return "\n".join([*text, ""])


def readme_table(rows: list[dict[str, Any]]) -> str:
    """Ours beside the fastest peer that has a goal, at each number of callers."""
    lines = [
        "| per second | callers | unanimity | beside | | times |",
        "| --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for workload in WORKLOADS:
        cells = cells_of(row for row in rows if row["workload"] == workload.name)
        rates = {
            (cell.subject, cell.callers): cell.figures["rate"].median
            for cell in cells
            if "rate" in cell.figures
        }
        ours = workload.subjects[0].name
        for callers in workload.callers:
            peers = {
                rate: peer
                for peer in workload.relative_goals
                if (rate := rates.get((peer, callers))) is not None
            }
            if not peers or (ours, callers) not in rates:
                continue
            best, own = max(peers), rates[ours, callers]
            title = workload.title if callers == workload.callers[0] else ""
            lines.append(
                f"| {title} | {callers} | {own:,.0f} | {peers[best]} | {best:,.0f} "
                f"| {own / best:.1f} |"
            )
    return "\n".join(lines)


def readme_with(text: str, table: str) -> str:
    """The README with that table in its place."""
    before, first, rest = text.partition(_MARKS[0])
    _, last, after = rest.partition(_MARKS[1])
    if not first or not last:
        raise ValueError(f"the README has no place for the table: {' … '.join(_MARKS)}")
    return f"{before}{first}\n\n{table}\n\n{last}{after}"


def plots_of(rows: list[dict[str, Any]]) -> dict[str, str]:
    """A picture for each workload that was run at several numbers of callers, by its file."""
    pictures = {}
    for workload in WORKLOADS:
        cells = cells_of(row for row in rows if row["workload"] == workload.name)
        with_rates = [cell for cell in cells if "rate" in cell.figures]
        if len({cell.callers for cell in with_rates}) > 1:
            pictures[f"{workload.name}.svg"] = plot(workload.title, with_rates)
    return pictures


def read_results(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the run was, and its rows."""
    first, *rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return first["facts"], rows


def _kept_lines(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    lines = [{"facts": facts}, *map(shortened, rows)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def main() -> None:
    """Read the results, write what is made of them."""
    from_kept = "--kept" in sys.argv[1:]
    source = _KEPT if from_kept else _RESULTS
    if not source.exists():
        sys.exit("nothing was measured yet; run `make bench` first")
    facts, rows = read_results(source)
    if facts["quick"]:
        sys.exit("the last run was a quick one, which shows nothing; run `make bench` first")
    if not from_kept:
        _KEPT.write_text(_kept_lines(facts, rows))
        facts, rows = read_results(_KEPT)
    _PAGE.write_text(page(facts, rows))
    _README.write_text(readme_with(_README.read_text(), readme_table(rows)))
    _PLOTS.mkdir(exist_ok=True)
    for name, picture in plots_of(rows).items():
        (_PLOTS / name).write_text(picture)
    print(f"wrote {_PAGE.relative_to(_ROOT)}, what belongs to it, and the README's table")


if __name__ == "__main__":
    main()
