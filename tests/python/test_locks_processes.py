"""Locks between real processes: a deadlock of three, and a holder that slept through its loss.

The death of a holder is in test_locks_service. A program here is started with its lock manager in
its text. Invariant: whoever is stopped is continued and ended with its block.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from boundary.programs import line_of, start
from ledger import request as make_request
from lock_backends import fresh, lock_database, lock_ensemble
from unanimity import (
    CoordinationRequest,
    CoordinationService,
    Outcome,
    PostgresLockManager,
    ZooKeeperLockManager,
)
from unanimity.stores import FileStore, SqliteStore

SHARED_KINDS = ["postgres", "zookeeper"]
# An interval of one second: twice that, and what a busy machine may need.
DEADLOCK_SECONDS = 10.0
SESSION_SECONDS = 0.5
ROUND_SECONDS = 30.0


# What the source of a manager names, for this process and for the programs.
MANAGERS = {
    "PostgresLockManager": PostgresLockManager,
    "ZooKeeperLockManager": ZooKeeperLockManager,
}


def source_of(kind: str, request: pytest.FixtureRequest, session_seconds: float = 10) -> str:
    """How a program makes a manager of that kind; all of them see each other."""
    session_ms = session_seconds * 1000
    if kind == "postgres":
        return f"PostgresLockManager({lock_database(request)!r}, session_timeout_ms={session_ms})"
    return f"ZooKeeperLockManager({lock_ensemble(request)!r}, '/test/processes', {session_ms})"


RING = """
import json
from unanimity import LockType, PostgresLockManager, ZooKeeperLockManager

async def main():
    me, mine, wanted = NAMES
    async with MANAGER as manager:
        assert (await manager.acquire_lock(mine, LockType.EXCLUSIVE, me, 60)).acquired
        # The ring is closed when all have theirs, and nobody lets go before that.
        while not await manager.check_lock_status(wanted):
            await asyncio.sleep(0.005)
        asked = time.time()
        result = await manager.acquire_lock(wanted, LockType.EXCLUSIVE, me, 100)
        told = time.time()
        released = await manager.release_all(me)
    print(json.dumps([me, result.acquired, result.deadlock_cycle, released, asked, told]))

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_of_three_processes_in_a_ring_one_is_told_and_the_others_get_their_locks(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made = source_of(kind, request)
    names = [fresh() for _ in range(3)]
    people = [f"{name}-holder" for name in names]
    with contextlib.ExitStack() as stack:
        processes = []
        for number, me in enumerate(people):
            mine = (me, names[number], names[(number + 1) % 3])
            source = RING.replace("NAMES", repr(mine)).replace("MANAGER", made)
            processes.append(stack.enter_context(start(source, tmp_path / str(number))))
        ends = [json.loads(line_of(process, "[")) for process in processes]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
    victims = [end for end in ends if not end[1]]
    assert len(victims) == 1, ends
    ((victim, _, cycle, released, _, told),) = victims
    first = people.index(victim)
    # Each waits for the next: who has what the victim wants comes behind it.
    turned = [people[(first + number) % 3] for number in range(3)]
    position = cycle.index(victim)
    assert cycle[position:] + cycle[:position] == turned
    assert released == 1
    for end in ends:
        if end[0] != victim:
            assert (end[1], end[2], end[3]) == (True, None, 2), ends
    closed = max(asked for *_, asked, _ in ends)
    print(f"told {told - closed:.3f} s after the last of them had asked")
    assert told - closed < DEADLOCK_SECONDS


# The process stops in the worst place: it has the lock, and has not yet written.
SLEEPER = """
import json
from unanimity import PostgresLockManager, ZooKeeperLockManager
from test_locks_processes import make_store, write

class Late:
    store_name = "late"

    def __init__(self, store):
        self.store, self.votes = store, []

    async def prepare_transaction(self, request):
        os.kill(os.getpid(), signal.SIGSTOP)
        answer = await self.store.prepare_transaction(request)
        self.votes.append([answer.vote, answer.reason or ""])
        return answer

    async def commit_transaction(self, transaction_id):
        return await self.store.commit_transaction(transaction_id)

    async def abort_transaction(self, transaction_id):
        return await self.store.abort_transaction(transaction_id)

async def main():
    late = Late(make_store(KIND, ".."))
    async with MANAGER as manager:
        service = CoordinationService({"late": late}, journal="journal.db", lock_manager=manager)
        async with service:
            for number in range(ROUNDS):
                wanted = write(KIND, f"early{number}", LEVEL)
                result = await service.coordinate_transaction(wanted)
                while not late.votes:
                    await asyncio.sleep(0.001)
                said = [result.outcome.value, result.error_message or "", *late.votes.pop()]
                print(json.dumps(said), flush=True)

asyncio.run(main())
"""


def make_store(kind: str, folder: str | Path) -> Any:
    """The store that both processes write to."""
    if kind == "rows":
        return SqliteStore(Path(folder) / "rows.db", "late")
    return FileStore(Path(folder) / "files", "late")


def write(kind: str, value: str, level: str) -> CoordinationRequest:
    """Give the one value there is; the coordination has its name."""
    operation: dict[str, Any] = {"store": "late", "type": "put", "key": "value", "value": value}
    if kind == "rows":
        operation = {
            "store": "late",
            "type": "execute",
            "statement": "UPDATE facts SET value = ?",
            "parameters": [value],
            "resource": "value",
        }
    return make_request(
        value, "late", operations=[operation], consistency_level=level, timeout_seconds=60
    )


async def make_table(service: CoordinationService) -> None:
    """The one row that both write to."""
    statements = ["CREATE TABLE facts (value TEXT)", "INSERT INTO facts VALUES ('none')"]
    operations = [
        {"store": "late", "type": "execute", "statement": statement} for statement in statements
    ]
    made = make_request("table", "late", operations=operations)
    assert (await service.coordinate_transaction(made)).success


async def value_of(kind: str, store: Any) -> str:
    """What stands there."""
    if kind == "rows":
        ((row),) = await store.fetch("SELECT value FROM facts")
        return str(row["value"])
    return str(await store.get_text("value"))


def wait_until_stopped(process: subprocess.Popen[str]) -> None:
    """Its own signal stops it; its end is a failure."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"it ended: {status}"


@dataclass(frozen=True)
class Sleep:
    """Who gives the locks, what is written to, how often, and whether locks are taken at all."""

    kind: str
    store: str
    rounds: int
    level: str = "strong"

    def source(self, made: str) -> str:
        """The program that sleeps."""
        source = SLEEPER.replace("MANAGER", made).replace("KIND", repr(self.store))
        return source.replace("ROUNDS", str(self.rounds)).replace("LEVEL", repr(self.level))


async def meet(
    case: Sleep, sleeper: subprocess.Popen[str], store: Any, service: CoordinationService
) -> list[list[str]]:
    """While the other sleeps for three times its session, write; what it says when it wakes."""
    said = []
    for number in range(case.rounds):
        await asyncio.to_thread(wait_until_stopped, sleeper)
        stopped = time.monotonic()
        mine = write(case.store, f"later{number}", case.level)
        result = await service.coordinate_transaction(mine)
        assert result.success, result.error_message
        granted = time.monotonic() - stopped
        assert granted < ROUND_SECONDS
        # What it sleeps beyond that is what the test is about.
        await asyncio.sleep(max(0.0, 3 * SESSION_SECONDS - granted))
        assert await value_of(case.store, store) == f"later{number}"
        os.kill(sleeper.pid, signal.SIGCONT)
        line = json.loads(await asyncio.to_thread(line_of, sleeper, "["))
        said.append([*line, await value_of(case.store, store)])
        print(f"round {number}: the lock was free after {granted:.2f} s; {said[-1]}")
    return said


def let_sleep(case: Sleep, request: pytest.FixtureRequest, folder: Path) -> list[list[str]]:
    """What the sleeper says in each round, and what stands in the store behind it."""
    made = source_of(case.kind, request, SESSION_SECONDS)

    async def scenario() -> list[list[str]]:
        store = make_store(case.store, folder)
        journal, stores = folder / "journal.db", {"late": store}
        async with (
            eval(made, MANAGERS) as manager,
            CoordinationService(stores, journal=journal, lock_manager=manager) as service,
        ):
            if case.store == "rows":
                await make_table(service)
            with start(case.source(made), folder / "sleeper") as sleeper:
                return await meet(case, sleeper, store, service)

    return asyncio.run(scenario())


@pytest.mark.parametrize(("kind", "store"), [("postgres", "rows"), ("zookeeper", "files")])
def test_a_holder_that_slept_for_three_times_its_session_is_refused_when_it_writes(
    kind: str, store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    said = let_sleep(Sleep(kind, store, rounds=5), request, tmp_path)
    assert len(said) == 5
    for number, (outcome, _, vote, reason, value) in enumerate(said):
        assert (outcome, vote) == (Outcome.ABORTED.value, "ABORT")
        assert "the lock on 'late/value' was lost" in reason
        assert value == f"later{number}"


@pytest.mark.parametrize(("kind", "store"), [("postgres", "rows"), ("zookeeper", "files")])
def test_without_locks_the_same_sleeper_writes_over_what_came_after_it(
    kind: str, store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    ((outcome, _, vote, _, value),) = let_sleep(Sleep(kind, store, 1, "session"), request, tmp_path)
    assert (outcome, vote) == (Outcome.COMMITTED.value, "COMMIT")
    assert value == "early0", "the test above could not fail"
