"""The kill matrix: SIGKILL at every named point, recovery in a new process, then the invariant.

Real stores, a real journal, real processes; `crash.points` has the cases. The table that it proves
is printed to docs/internals/crash-matrix.md (UPDATE_DOCS=1 writes it, otherwise it is compared).
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

from crash.points import CASES, Case, describe
from crash.world import STORES, World
from postgres_cluster import PostgresCluster
from redis_server import RedisServer

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "internals" / "crash-matrix.md"
AT_ONCE = 3
TRANSACTIONS = 2000
BOUND = 60.0


def run(
    module: str, arguments: list[str], armed: str, has_long_ids: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a module of `crash` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "UNANIMITY_CRASH_AT": armed}
    if has_long_ids:
        environment["UNANIMITY_TEST_LONG_IDS"] = "1"
    if not armed:
        del environment["UNANIMITY_CRASH_AT"]
    command = [sys.executable, "-m", f"crash.{module}", *arguments]
    return subprocess.run(
        command, env=environment, cwd=HERE, capture_output=True, text=True, timeout=BOUND
    )


def kill(case: Case, world: World) -> list[str]:
    """Let a process (or two, one after the other) die; what is wrong with how it died."""
    armed = f"{case.point}#{case.count}"
    work = [*world.arguments(), case.refuser, "2", str(TRANSACTIONS)]
    points = [("child", work, case.first), ("heir", world.arguments(), armed)]
    if not case.first:
        points = [("child", work, armed)]
    for module, arguments, point in points:
        ended = run(module, arguments, point, case.has_long_ids)
        if ended.returncode != -signal.SIGKILL:
            return [f"{point} was not reached: {ended.returncode}, {ended.stderr[-2000:]}"]
    return []


def troubles(case: Case, world: World) -> list[str]:
    """Kill, recover, and say what does not hold."""
    if wrong := kill(case, world):
        return wrong
    ended = run("heir", world.arguments(), "")
    if ended.returncode != 0:
        return [f"recovery failed: {ended.returncode}, {ended.stderr[-2000:]}"]
    return list(judge(case, world, json.loads(ended.stdout)))


def judge(case: Case, world: World, found: dict[str, Any]) -> Iterator[str]:
    """Hold the invariant against what the heir reported."""
    told = dict(line.split() for line in _lines(world.acknowledged))
    heuristic = case.path == "heuristic"
    facts = {place: set(names) for place, names in found["facts"].items()}
    if heuristic:
        if facts.pop("index"):
            yield "the store that refused shows something"
        if "failed" not in found["states"].values():
            yield f"nobody was told of the contrary word: {found['states']}"
    elif found["left"] or found["left_after"]:
        yield f"left over: {found['left']}, {found['left_after']}"
    shown = facts["rows"]
    if any(names != shown for names in facts.values()):
        yield f"the stores differ: {facts}"
    lost = {name for name, outcome in told.items() if outcome == "committed"} - shown
    undone = {name for name, outcome in told.items() if outcome == "aborted"} & shown
    if lost or undone:
        yield f"told committed and gone: {lost}; told aborted and there: {undone}"
    if case.path == "abort" and shown:
        yield f"refused and there: {shown}"
    for name, state in found["states"].items():
        if (state == "committed") != (name in shown) and not heuristic:
            yield f"the journal says {name} is {state}, the stores say otherwise"
    if found["leftovers"]:
        yield f"staged work is on the disk: {found['leftovers']}"
    if not heuristic:
        if found["fresh_errors"]:
            yield f"new transactions fail: {found['fresh_errors']}"
        after = {place: set(names) for place, names in found["after"].items()}
        if any(names != shown | set(found["fresh"]) for names in after.values()):
            yield f"new transactions are torn: {after}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def results(postgres: PostgresCluster, redis: RedisServer) -> Iterator[dict[Case, list[str]]]:
    """All kills, on one PostgreSQL and one Redis server; what was wrong, by case."""
    server, url = postgres, redis.fresh_url()
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="unanimity-kill-") as place,
    ):
        patch.setenv("UNANIMITY_TEST_REDIS", url)
        database = server.create_database()
        tables = [f"facts_{number}" for number in range(len(CASES))]
        create = "CREATE TABLE {} (name text PRIMARY KEY);"
        server.query(database, "".join(map(create.format, tables)))

        def one(number: int) -> list[str]:
            case, own = CASES[number], database
            if case.is_strong:
                # Its locks are seen by nobody else.
                own = server.create_database()
                server.query(own, create.format(tables[number]))
            folder, level = Path(place) / str(number), "strong" if case.is_strong else "session"
            world = World(folder, server.dsn(own), tables[number], case.index, level)
            world.make()
            try:
                return troubles(case, world)
            except subprocess.TimeoutExpired as error:
                return [f"it hangs: {error.stderr!r}"]

        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(zip(CASES, pool.map(one, range(len(CASES))), strict=True))
        assert server.prepared() == []
        yield found


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_all_stores_agree_after_a_kill_at(case: Case, results: dict[Case, list[str]]) -> None:
    assert results[case] == []


def test_the_printed_table_is_the_one_that_was_proved(results: dict[Case, list[str]]) -> None:
    page = printed(results)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "run `make docs` and read the difference"


def printed(results: dict[Case, list[str]]) -> str:
    """The page."""
    parts = [*_HEAD, *_record_rows(results), *_STORE_HEAD, *_store_rows(results)]
    return "\n".join([*parts, *_LOCK_HEAD, *_lock_rows(results), ""])


_INTRODUCTION = """\
# The kill matrix

Printed by `tests/python/test_crash_matrix.py`, which runs every cell: a process that works on a
SQLite file, a folder of files, a PostgreSQL database, a Redis server and a Python store with a file
of its own, all in one coordination and several at a time, is killed with SIGKILL at the named
point. A new process then opens the same journal and stores. *holds* means: all stores show the same
transactions; whatever the killed process was told committed is there, and what it was told aborted
is not; the journal agrees; nothing is prepared, staged or under way any more; new transactions
commit. A point that is never reached fails the test.

*forward* is on the way to a commit; *abort* is while a refused transaction is undone; *forward,
again in recovery* kills a second process while it finishes what the first left; *heuristic* is a
store whose final word contradicts the decision, so that the coordination stays for an operator, and
*holds* says that it does. *blind* is with a Python store that cannot list what it prepared; *a
hasty store* answers faster than the journal's disk, and *an exclusive store* does so and declares
that its list is one journal's alone, so that the begin record need not be on disk before.
"""
_HEAD = [
    *_INTRODUCTION.splitlines(),
    "",
    f"{len(CASES)} kills.",
    "",
    "## Records of the journal",
    "",
    "| the process dies | path | all stores agree |",
    "| --- | --- | --- |",
]
_STORE_HEAD = [
    "",
    "## Steps of the stores, and of the engine toward them",
    "",
    f"| the process dies | path | {' | '.join(STORES)} |",
    f"| --- | --- |{' --- |' * len(STORES)}",
]
_LOCK_HEAD = """
## Locks of strong coordinations

All transactions want one lock of a PostgreSQL lock manager whose sessions end after a second;
*holds* says also that nobody holds or waits any more, in the manager's tables and in the journal's.

| the process dies | path | all stores agree, no lock is left |
| --- | --- | --- |""".splitlines()


def _says(troubles: list[str]) -> str:
    return "FAILS" if troubles else "holds"


def _is_record(case: Case) -> bool:
    return not case.is_strong and case.point.rpartition(":")[2] not in STORES


def _record_rows(results: dict[Case, list[str]]) -> Iterator[str]:
    for case in filter(_is_record, results):
        yield _row(case, results[case])


def _lock_rows(results: dict[Case, list[str]]) -> Iterator[str]:
    for case in results:
        if case.is_strong:
            yield _row(case, results[case])


def _row(case: Case, troubles: list[str]) -> str:
    path = f"{case.path}, blind" if case.index == "blind" else case.path
    place = describe(case.point)
    if case.first:
        place += f" (the first died at `{case.first}`)"
    return f"| {place} | {path} | {_says(troubles)} |"


def _store_rows(results: dict[Case, list[str]]) -> Iterator[str]:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for case in results:
        if not _is_record(case) and not case.is_strong:
            place, _, store = case.point.rpartition(":")
            row = rows.setdefault((describe(f"{place}:x"), case.path), {})
            # Several kills may share a cell, which then holds only if all of them do.
            if row.get(store) != "FAILS":
                row[store] = _says(results[case])
    for (place, path), row in rows.items():
        yield f"| {place} | {path} | {' | '.join(row.get(store, '-') for store in STORES)} |"
