"""The kill matrix of steps: SIGKILL at every named point of sagas and eventual coordinations.

Real stores, a real journal, real processes; `crash.step_points` has the cases. The table that it
proves is printed to crash-matrix-steps.md (UPDATE_DOCS=1 writes it, else it is compared).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crash.step_points import CASES, StepCase, describe
from crash.step_world import PLACES, StepWorld, repeated
from postgres_cluster import PostgresCluster
from redis_server import RedisServer

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "internals" / "crash-matrix-steps.md"
AT_ONCE = 3
LANES = 2
COORDINATIONS = 2000
BOUND = 60.0


def run(module: str, arguments: list[str], armed: str) -> subprocess.CompletedProcess[str]:
    """Run a module of `crash` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "UNANIMITY_CRASH_AT": armed}
    if not armed:
        del environment["UNANIMITY_CRASH_AT"]
    command = [sys.executable, "-m", f"crash.{module}", *arguments]
    return subprocess.run(
        command, env=environment, cwd=HERE, capture_output=True, text=True, timeout=BOUND
    )


def kill(case: StepCase, world: StepWorld) -> list[str]:
    """Let a process (or two, one after the other) die; what is wrong with how it died."""
    armed = f"{case.point}#{case.count}"
    refuses = "refuses" if case.path == "undone" else "agrees"
    work = [*world.arguments(), refuses, str(LANES), str(COORDINATIONS)]
    points = [("step_child", work, case.first), ("step_heir", world.arguments(), armed)]
    if not case.first:
        points = [("step_child", work, armed)]
    for module, arguments, point in points:
        ended = run(module, arguments, point)
        if ended.returncode != -signal.SIGKILL:
            return [f"{point} was not reached: {ended.returncode}, {ended.stderr[-2000:]}"]
    return []


def troubles(case: StepCase, world: StepWorld) -> list[str]:
    """Kill, recover, and say what does not hold."""
    if wrong := kill(case, world):
        return wrong
    ended = run("step_heir", world.arguments(), "")
    if ended.returncode != 0:
        return [f"recovery failed: {ended.returncode}, {ended.stderr[-2000:]}"]
    return list(judge(case, world, json.loads(ended.stdout)))


def judge(case: StepCase, world: StepWorld, found: dict[str, Any]) -> Iterator[str]:
    """Hold the invariant against what the heir reported."""
    told = dict(line.split() for line in _lines(world.acknowledged))
    if found["left"] or found["parked"] or found["fresh_errors"]:
        yield f"left over: {found['left']}, {found['parked']}; new: {found['fresh_errors']}"
    facts: dict[str, dict[str, list[int]]] = found["facts"]
    names = {name for lines in facts.values() for name in lines} | set(told)
    for name in sorted(names):
        sums = {place: sum(facts[place].get(name, [])) for place in PLACES}
        wanted = 1 if found["states"].get(name) == "committed" else 0
        # A participant without a barrier may have done the step in flight twice, and undone it
        # twice: what it has too much or too little is one of each.
        exact = {place: total for place, total in sums.items() if place != "index"}
        if any(total != wanted for total in exact.values()):
            yield f"{name} is {found['states'].get(name)}, the stores show {sums}"
        if told.get(name) not in (None, "committed" if wanted else "aborted"):
            yield f"{name} was told {told[name]} and is {found['states'].get(name)}"
        # Once, and once more for each process that died with it in flight.
        tries = facts["index"].get(name, []).count(1)
        if tries > (3 if case.first else 2) or (wanted and not tries):
            yield f"{name} was done {tries} times without a barrier"
    for place in ("rows", "postgres"):
        if twice := repeated(facts[place]):
            yield f"{place} did twice: {twice}"
    in_flight = LANES * (2 if case.first else 1)
    if len(twice := repeated(facts["index"])) > in_flight:
        yield f"more than what was in flight was done twice: {twice}"
    if case.path == "undone" and "committed" in {found["states"].get(name) for name in told}:
        yield "a saga whose last step is refused committed"
    after = found["after"]
    if any(sum(after[place].get(name, [])) != 1 for place in PLACES for name in found["fresh"]):
        yield f"new coordinations are torn: {after}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def results(postgres: PostgresCluster, redis: RedisServer) -> Iterator[dict[StepCase, list[str]]]:
    """All kills, on one PostgreSQL and one Redis server; what was wrong, by case."""
    url = redis.fresh_url()
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="unanimity-steps-") as place,
    ):
        patch.setenv("UNANIMITY_TEST_REDIS", url)
        database = postgres.create_database()
        tables = [f"facts_{number}" for number in range(len(CASES))]
        create = "CREATE TABLE {} (name text NOT NULL, delta int NOT NULL);"
        postgres.query(database, "".join(map(create.format, tables)))

        def one(number: int) -> list[str]:
            case = CASES[number]
            dsn = postgres.dsn(database)
            world = StepWorld(Path(place) / str(number), dsn, tables[number], case.kind)
            world.make()
            try:
                return troubles(case, world)
            except subprocess.TimeoutExpired as error:
                return [f"it hangs: {error.stderr!r}"]

        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield dict(zip(CASES, pool.map(one, range(len(CASES))), strict=True))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_steps_hold_after_a_kill_at(case: StepCase, results: dict[StepCase, list[str]]) -> None:
    assert results[case] == []


def test_the_printed_table_is_the_one_that_was_proved(
    results: dict[StepCase, list[str]],
) -> None:
    page = printed(results)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "run `make docs` and read the difference"


_HEAD = """\
# The kill matrix of steps

Printed by `tests/python/test_crash_steps.py`, which runs every row: a process that runs sagas, or
eventual coordinations, of five steps (a Python participant without a barrier, a SQLite file, a
folder of files, a Redis server, a PostgreSQL database), several at a time, is killed with SIGKILL
at the named point. A new process then opens the same journal and stores. *holds* means: every saga
is done everywhere or undone everywhere, as its caller was told and as the journal says; the native
stores did nothing twice, because of their barrier; the participant without one did at most those
steps twice that were under way; nothing is under way or parked; new coordinations commit. A point
that is never reached fails the test.

*undone* is a saga whose last step refuses, so that the others are compensated. Where a first point
is named, one process died there and the second, which was recovering, at the other.
"""


def printed(results: dict[StepCase, list[str]]) -> str:
    """The page."""
    rows = [_HEAD, f"{len(results)} kills.", "", "| type | path | the process dies | |"]
    rows.append("| --- | --- | --- | --- |")
    for case, wrong in results.items():
        place = describe(case.point)
        if case.first:
            place += f" (the first died at `{case.first}`)"
        rows.append(f"| {case.kind} | {case.path} | {place} | {'FAILS' if wrong else 'holds'} |")
    return "\n".join([*rows, ""])
