"""`replay`: runs a scenario once for each point, with a crash there, recovers, and has it checked.

    replay("shop:make_service", "shop:order", "shop:check")

The process that runs the scenario is a real child, killed by the engine's own named points
(`UNANIMITY_CRASH_AT`); a second child opens the same folder, recovers and checks. Not a
simulation. Invariants: every run has a folder of its own; a point that the scenario never reaches
is shown as such, and proves nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._exceptions import ConfigError
from ._check import importable_name

HOLDS, BROKEN, NOT_REACHED = "holds", "broken", "not reached"
_NO_CRASH = "no crash"

Named = Callable[..., Any] | str


@dataclass(frozen=True)
class ReplayResult:
    """How the check judged after a crash at one point."""

    point: str
    state: str
    """"holds", "broken" or "not reached"."""
    note: str = ""
    """Where it is broken: the end of what the process said."""


@dataclass(frozen=True)
class ReplayReport:
    """The results of all points; printing it gives the table."""

    results: tuple[ReplayResult, ...]

    @property
    def broken(self) -> list[ReplayResult]:
        """Where the check does not hold."""
        return [result for result in self.results if result.state == BROKEN]

    @property
    def reached(self) -> list[str]:
        """The points at which the process was killed."""
        names = [result.point for result in self.results if result.state != NOT_REACHED]
        return [name for name in names if name != _NO_CRASH]

    def table(self) -> str:
        """One line for each point."""
        width = max(len(result.point) for result in self.results)
        lines = [f"  {result.point:<{width}}  {result.state}" for result in self.results]
        return "\n".join(["the process dies at, and then", *lines])

    def __str__(self) -> str:
        return self.table()


class ReplayBroken(AssertionError):
    """A check did not hold after a crash; `report` has all points."""

    def __init__(self, report: ReplayReport) -> None:
        """Tell where, and what was said."""
        self.report = report
        said = [f"{result.point}: {result.note}" for result in report.broken]
        super().__init__("\n".join([*said, report.table()]))


def replay(
    make_service: Named,
    scenario: Named,
    check: Named,
    *,
    points: Iterable[str] | None = None,
    occurrences: int = 1,
    seconds: float = 120.0,
) -> ReplayReport:
    """Crash a scenario at every point, recover, and check; raises ReplayBroken.

    `make_service(folder)` gives a `CoordinationService` with its journal and stores in the folder;
    `scenario(service)` and `check(service)` are async. All three are functions of a module, or
    their names, "module:function". The points are those that the scenario can pass, found by
    running it once: give coordinations fixed ids, so that the points of their steps are the same
    each time. `occurrences` crashes at the first so many times that a point is passed. Each process
    may take `seconds`.
    """
    names = {
        "make": _name_of(make_service),
        "scenario": _name_of(scenario),
        "check": _name_of(check),
    }
    with tempfile.TemporaryDirectory(prefix="unanimity-replay-") as place:
        first, found = _run(names, Path(place) / "0", "", seconds)
        results = [first]
        if first.state == HOLDS:
            chosen = found if points is None else list(points)
            armed = [
                point if "#" in point else f"{point}#{number}"
                for point in chosen
                for number in range(1, 2 if "#" in point else occurrences + 1)
            ]
            for number, point in enumerate(armed, 1):
                results.append(_run(names, Path(place) / str(number), point, seconds)[0])
    report = ReplayReport(tuple(results))
    if report.broken:
        raise ReplayBroken(report)
    if points is not None and not report.reached:
        raise ConfigError(f"the scenario reaches none of the points {list(points)}")
    return report


def _run(
    names: dict[str, str], folder: Path, point: str, seconds: float
) -> tuple[ReplayResult, list[str]]:
    """One crash, one recovery, one judgement; the points that were found, where there is none."""
    folder.mkdir()
    shown = point.removesuffix("#1") or _NO_CRASH
    died = _child(names, "scenario", folder, point, seconds)
    if died.returncode == 0 and point:
        return ReplayResult(shown, NOT_REACHED), []
    if died.returncode != (-signal.SIGKILL if point else 0):
        note = f"the scenario itself failed: {died.stderr[-2000:]}"
        return ReplayResult(shown, BROKEN, note), []
    judged = _child(names, "check", folder, "", seconds)
    found: list[str] = [] if point else json.loads(died.stdout.splitlines()[-1])
    if judged.returncode != 0:
        return ReplayResult(shown, BROKEN, judged.stderr[-2000:]), found
    return ReplayResult(shown, HOLDS), found


def _child(
    names: dict[str, str], act: str, folder: Path, point: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name != "UNANIMITY_CRASH_AT"
    }
    if point:
        environment["UNANIMITY_CRASH_AT"] = point
    order = {"path": sys.path, "make": names["make"], "act": names[act], "folder": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "unanimity.testing._replay_child", act],
        input=json.dumps(order),
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def _name_of(function: Named) -> str:
    name = function if isinstance(function, str) else importable_name(function)
    if name is None:
        raise ConfigError(
            f"a child process cannot find {function!r}; give a function of a module, or its name"
        )
    return name
