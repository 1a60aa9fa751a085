"""Killed at every point around the deciding commit, recovered in a new process, then the invariant.

Nothing can be prepared on the PostgreSQL server of these tests. The points before and after the
commit are the engine's and the stores' own; while the commit is on its way a proxy kills, and may
deliver it after the heir has recovered.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from crash.last_child import COUNT
from postgres_cluster import PostgresCluster
from postgres_proxy import PostgresProxy

HERE = Path(__file__).parent
BOUND = 60.0

FORWARD = [
    "before_record:begin",
    "after_record:begin",
    "before_ask:prepare:files",
    "after_ask:prepare:files",
    "before_ask:decide:rows",
    "store_decide:rows",
    "store_deciding:rows",
    "store_decided:rows",
    "after_ask:decide:rows",
    "before_record:decision",
    "before_sync:decision",
    "after_record:decision",
    "before_ask:commit:files",
    "store_commit:files",
    "store_committed:files",
    "after_ask:commit:files",
    "before_record:end",
    "after_record:end",
]
TWICE = [
    ("store_deciding:rows", point)
    for point in (
        "before_ask:read:rows",
        "after_ask:read:rows",
        "before_ask:forbid:rows",
        "store_forbid:rows",
        "store_forbidden:rows",
        "after_ask:forbid:rows",
        "before_record:decision",
        "before_ask:abort:files",
    )
] + [
    ("store_decided:rows", point)
    for point in (
        "after_ask:read:rows",
        "before_record:decision",
        "after_record:decision",
        "store_commit:files",
        "store_committed:files",
    )
]


@pytest.fixture(params=["postgres", "sqlite"])
def place(request: Any, unprepared: PostgresCluster, tmp_path: Path) -> str:
    """A database with an empty table, in which the decision lives."""
    if request.param == "sqlite":
        path = tmp_path / "rows.db"
        with sqlite3.connect(path) as plain:
            plain.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
        plain.close()
        return str(path)
    return table_in(unprepared)


def table_in(server: PostgresCluster) -> str:
    """A database of its own with an empty table."""
    return server.database_with("CREATE TABLE t (n INT PRIMARY KEY)")


def start(role: str, folder: Path, place: str, armed: str = "") -> subprocess.Popen[str]:
    """A process of `crash.last_child`."""
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    environment.pop("UNANIMITY_CRASH_AT", None)
    if armed:
        environment["UNANIMITY_CRASH_AT"] = armed
    command = [sys.executable, "-m", "crash.last_child", role, str(folder), place]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=HERE, stdout=pipe, stderr=pipe, text=True)


def die(role: str, folder: Path, place: str, armed: str) -> None:
    """Run one that has to die at its point."""
    process = start(role, folder, place, armed)
    _, errors = process.communicate(timeout=BOUND)
    assert process.returncode == -signal.SIGKILL, f"{armed} was not reached: {errors[-2000:]}"


def recover(folder: Path, place: str) -> dict[str, Any]:
    """What an heir finds, which must be all or nothing of each."""
    process = start("heir", folder, place)
    output, errors = process.communicate(timeout=BOUND)
    assert process.returncode == 0, errors[-2000:]
    found: dict[str, Any] = json.loads(output)
    assert found["left"] == [] and found["fresh"] == "committed", found
    check(folder, found["rows"], found["states"])
    return found


def check(folder: Path, rows: list[int], states: dict[str, str]) -> None:
    """Rows, files, journal and callers say the same."""
    in_files = {int(path.name) for path in (folder / "files").iterdir() if path.name.isdigit()}
    assert set(rows) == in_files
    # The end of the last one may not be on the disk yet.
    committed = {int(name[1:]) for name, state in states.items() if state.startswith("commit")}
    assert committed == in_files
    assert set(states.values()) <= {"committed", "committing", "aborted"}
    told = (folder / "told").read_text().split("\n") if (folder / "told").exists() else []
    for line in filter(None, told):
        number, outcome = line.split()
        assert (outcome == "committed") == (int(number) in in_files), line


@pytest.mark.parametrize("point", FORWARD)
def test_killed_around_the_deciding_commit(point: str, place: str, tmp_path: Path) -> None:
    die("work", tmp_path, place, f"{point}#3")
    found = recover(tmp_path, place)
    later = FORWARD.index(point) >= FORWARD.index("store_decided:rows")
    assert (2 in found["rows"]) == later


@pytest.mark.parametrize(("first", "second"), TWICE)
def test_killed_again_while_an_heir_finds_out(
    first: str, second: str, place: str, tmp_path: Path
) -> None:
    die("work", tmp_path, place, f"{first}#3")
    die("heir", tmp_path, place, second)
    found = recover(tmp_path, place)
    assert (2 in found["rows"]) == (first == "store_decided:rows")


@pytest.mark.parametrize("point", [point for point in FORWARD if "store_deci" not in point])
def test_killed_around_the_commit_of_an_enlisted_connection(
    point: str, unprepared: PostgresCluster, tmp_path: Path
) -> None:
    dsn = table_in(unprepared)
    die("enlist", tmp_path, dsn, f"{point}#3")
    found = recover(tmp_path, dsn)
    later = FORWARD.index(point) >= FORWARD.index("store_decided:rows")
    assert (2 in found["rows"]) == later


@pytest.mark.parametrize("mode", ["lose_answer", "lose_commit"])
def test_killed_while_the_commit_of_an_enlisted_connection_is_on_its_way(
    mode: str, unprepared: PostgresCluster, tmp_path: Path
) -> None:
    dsn = table_in(unprepared)
    with PostgresProxy(unprepared.port) as proxy:
        proxy.decides = lambda data: b"COMMIT;" in data and b"INSERT" not in data
        through = dsn.replace(f":{unprepared.port}", f":{proxy.port}")
        process = start("enlist", tmp_path, through)
        proxy.on_decision = process.kill
        proxy.mode = mode
        process.communicate(timeout=BOUND)
        assert process.returncode == -signal.SIGKILL
        found = recover(tmp_path, dsn)
        assert found["rows"] == ([0, 1000] if mode == "lose_answer" else [1000])


@pytest.mark.parametrize("mode", ["lose_answer", "lose_commit", "hold"])
def test_killed_while_the_commit_is_on_its_way(
    mode: str, unprepared: PostgresCluster, tmp_path: Path
) -> None:
    dsn = table_in(unprepared)
    with PostgresProxy(unprepared.port) as proxy:
        through = dsn.replace(f":{unprepared.port}", f":{proxy.port}")
        assert through != dsn
        process = start("work", tmp_path, through)
        proxy.on_decision = process.kill
        proxy.mode = mode
        process.communicate(timeout=BOUND)
        assert process.returncode == -signal.SIGKILL
        found = recover(tmp_path, dsn)
        assert len(found["rows"]) <= COUNT
        answer = proxy.send_held()
        assert mode != "hold" or b"unanimity_decisions" in answer, "it was not refused by the key"
    with psycopg.connect(dsn) as connection:
        rows = [n for (n,) in connection.execute("SELECT n FROM t").fetchall()]
    check(tmp_path, rows, found["states"])
