"""Two processes work on one journal and the same stores; one of them is killed, again and again.

The journal is a file, or stands in PostgreSQL. Real processes, stores and signals. The kills come
at random moments: the seed is printed, and UNANIMITY_SEED repeats it.
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crash.world import World
from postgres_cluster import PostgresCluster

HERE = Path(__file__).parent
ROUNDS = 20
BOUND = 60.0


class Process:
    """A `crash.twin`, driven by commands."""

    def __init__(self, world: World) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crash.twin", *world.arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(HERE)},
            cwd=HERE,
        )
        self.pid: int = self.answer()["pid"]

    def tell(self, do: str, **more: Any) -> None:
        """Give a command without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The answer to the oldest command."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], BOUND)
        assert ready, "a process hangs"
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Give a command and wait."""
        self.tell(do, **more)
        return self.answer()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.end()

    def end(self) -> int:
        """Let it end, and wait for it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(BOUND)


Start = Callable[[], Process]


@pytest.fixture(params=["file", "postgres"])
def world(
    tmp_path: Path,
    postgres: PostgresCluster,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    # Where the processes have their journal.
    monkeypatch.setenv("UNANIMITY_TEST_JOURNAL", request.param)
    database = postgres.create_database()
    postgres.query(database, "CREATE TABLE facts (name text PRIMARY KEY)")
    made = World(tmp_path / "world", postgres.dsn(database), "facts", "shared")
    made.make()
    return made


@pytest.fixture
def start(world: World) -> Iterator[Start]:
    started: list[Process] = []

    def one() -> Process:
        started.append(Process(world))
        return started[-1]

    yield one
    for each in started:
        if each.process.poll() is None:
            each.kill()


def acknowledged(world: World) -> dict[str, str]:
    """What callers were told; a torn last line was told to nobody."""
    lines = world.acknowledged.read_text().splitlines()
    return dict(line.split() for line in lines if len(line.split()) == 2)


def check_equal(facts: dict[str, list[str]]) -> set[str]:
    """All stores show the same, everything once."""
    first = facts["rows"]
    assert all(shown == first for shown in facts.values()), facts
    assert len(set(first)) == len(first)
    return set(first)


def test_a_survivor_adopts_and_finishes_what_a_killed_process_left(
    world: World, start: Start
) -> None:
    seed = int(os.environ.get("UNANIMITY_SEED", random.randrange(2**32)))
    print(f"UNANIMITY_SEED={seed}")
    chance = random.Random(seed)
    survivor = start()
    slowest = 0.0
    for number in range(ROUNDS):
        survivor.ask("work", lanes=2)
        victim = start()
        victim.ask("work", lanes=3)
        time.sleep(chance.uniform(0.0, 0.4))  # the moment of the kill, not a wait for anything
        victim.kill()
        survivor.ask("pause")
        # Mostly it is asked to look at once; sometimes its own rounds must find it.
        found = survivor.ask("settle", recover=number % 5 != 0)
        assert found["left"] == {}, found
        slowest = max(slowest, found["seconds"])
        shown = check_equal(found["facts"])
        told = acknowledged(world)
        committed = {name for name, outcome in told.items() if outcome == "committed"}
        assert committed <= shown
        assert not {name for name, outcome in told.items() if outcome == "aborted"} & shown
        mine = {name for name in shown if name.startswith(f"{victim.pid}-")}
        assert len(mine - committed) <= 3, "more than one a lane was committed without being told"
    assert slowest < 10, f"it took {slowest:.1f} s to finish what the dead had left"
    assert any(name.startswith(f"{survivor.pid}-") for name in acknowledged(world))
    assert survivor.end() == 0


def test_the_same_id_from_two_processes_at_once_runs_once_and_both_are_told_the_same(
    world: World, start: Start
) -> None:
    left, right = start(), start()
    names = [f"both-{number}" for number in range(20)]
    for process in (left, right):
        process.tell("send", names=names, refuser="")
    answers = [left.answer(), right.answer()]
    assert answers[0] == answers[1] == {name: ["committed", None] for name in names}
    assert check_equal(left.ask("settle", recover=False)["facts"]) == set(names)
    refused = [f"refused-{number}" for number in range(5)]
    for process in (left, right):
        process.tell("send", names=refused, refuser="rows")
    answers = [left.answer(), right.answer()]
    assert answers[0] == answers[1]
    assert {outcome for outcome, _ in answers[0].values()} == {"aborted"}
    assert check_equal(right.ask("settle", recover=False)["facts"]) == set(names)
    assert (left.end(), right.end()) == (0, 0)


def test_the_same_id_with_another_request_is_refused_in_the_other_process(
    world: World, start: Start
) -> None:
    left, right = start(), start()
    assert left.ask("send", names=["one"], refuser="") == {"one": ["committed", None]}
    told = right.ask("send", names=["one"], refuser="rows")
    assert told == {"one": ["refused", "request.conflict"]}
    for process in (left, right):
        process.tell("send", names=["two"], refuser="" if process is left else "files")
    outcomes = [left.answer()["two"], right.answer()["two"]]
    assert sum(told == ["refused", "request.conflict"] for told in outcomes) == 1, outcomes
    found = right.ask("settle", recover=False)
    won = outcomes[0] == ["committed", None]
    assert check_equal(found["facts"]) == ({"one", "two"} if won else {"one"})
    assert (left.end(), right.end()) == (0, 0)
