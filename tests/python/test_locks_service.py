"""A service and its lock manager: ours, none, or a user's own; what it tells, and what is shown."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from boundary.programs import run as run_program
from ledger import Ledger, request
from lock_backends import fresh, lock_database, lock_ensemble, until
from test_cli import run, run_json
from test_listeners import Bus, Metrics
from unanimity import (
    ConfigError,
    CoordinationService,
    IDistributedLockManager,
    LocalLockManager,
    LockAcquisitionResult,
    LockError,
    LockInfo,
    LockType,
    Outcome,
    PostgresLockManager,
    ZooKeeperLockManager,
)

Make = Callable[..., CoordinationService]
Ledgers = dict[str, Ledger]
X = LockType.EXCLUSIVE
# What `request` touches, in the order in which it is locked.
TOUCHED = [
    ("left", LockType.INTENT_EXCLUSIVE),
    ("left/k", X),
    ("right", LockType.INTENT_EXCLUSIVE),
    ("right/k", X),
]


def strong(coordination_id: str, **changes: Any) -> Any:
    return request(coordination_id, consistency_level="strong", **changes)


async def is_prepared(ledger: Ledger, times: int = 1) -> None:
    """Wait until the store was asked so often."""
    for _ in range(10_000):
        if ledger.asked("prepare") >= times:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the store was not asked")


def test_a_strong_coordination_holds_its_keys_in_the_manager_it_was_given(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        gate = ledgers["left"].gate = asyncio.Event()
        async with (
            LocalLockManager() as manager,
            make_service(ledgers, lock_manager=manager) as service,
        ):
            task = asyncio.create_task(service.coordinate_transaction(strong("t1")))
            await is_prepared(ledgers["left"])
            held = [(info.resource_id, info.lock_type) for info in await manager.list_locks()]
            assert held == TOUCHED
            assert {info.requester_id for info in await manager.list_locks()} == {"t1"}
            assert not (await manager.acquire_lock("left/k", LockType.SHARED, "me", 0)).acquired
            gate.set()
            assert (await task).success
            assert await manager.list_locks() == []

    asyncio.run(scenario())


def test_without_a_manager_a_service_keeps_its_own_coordinations_apart(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        gate = ledgers["left"].gate = asyncio.Event()
        async with make_service(ledgers) as service:
            first = asyncio.create_task(service.coordinate_transaction(strong("t1")))
            await is_prepared(ledgers["left"])
            second = asyncio.create_task(service.coordinate_transaction(strong("t2")))
            other = asyncio.create_task(service.coordinate_transaction(request("session")))
            await is_prepared(ledgers["left"], 2)
            asked = [each.transaction_id for each in ledgers["left"].requests]
            assert asked == ["t1", "session"], "t2 waits for t1, a session waits for nobody"
            gate.set()
            results = await asyncio.gather(first, second, other)
            assert all(result.success for result in results)

    asyncio.run(scenario())


def test_a_deadlock_is_told_to_the_bus_and_counted(make_service: Make, ledgers: Ledgers) -> None:
    bus, metrics = Bus(), Metrics()

    async def scenario() -> None:
        async with (
            LocalLockManager() as manager,
            make_service(
                ledgers, lock_manager=manager, event_bus=bus, metrics_collector=metrics
            ) as service,
        ):
            await service.start()
            await manager.acquire_lock("one", X, "old")
            await asyncio.sleep(0.01)
            await manager.acquire_lock("two", X, "young")
            waits = asyncio.create_task(manager.acquire_lock("two", X, "old"))
            await until(lambda: manager.check_lock_status("two"), ["held", "waiting"])
            refused = await manager.acquire_lock("one", X, "young")
            assert refused.deadlock_cycle == ["young", "old"]
            event = await bus.next()
            moment = datetime.fromisoformat(event.pop("detected_at"))
            assert moment.tzinfo is not None
            assert event == {
                "type": "DEADLOCK_DETECTED",
                "victim_transaction": "young",
                "deadlock_cycle": ["young", "old"],
                "resource_id": "one",
            }
            await metrics.until(1)
            assert metrics.counted == [("coordination_deadlocks_detected_total", None)]
            await manager.release_all("young")
            assert (await waits).acquired

    asyncio.run(scenario())


class OwnLocks(IDistributedLockManager):
    """A lock manager as somebody wrote it against the original interface: one lock at a time."""

    def __init__(self) -> None:
        self.holders: dict[str, str] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.refusal: LockAcquisitionResult | Exception | None = None
        self.gate: asyncio.Event | None = None

    async def acquire_lock(
        self, resource_id: str, lock_type: LockType, requester_id: str, timeout_seconds: int = 300
    ) -> LockAcquisitionResult:
        self.calls.append(("acquire", resource_id, lock_type, requester_id, timeout_seconds))
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.refusal, Exception):
            raise self.refusal
        if self.refusal is not None and resource_id == "right/k":
            return self.refusal
        lock_id = f"{resource_id}:{lock_type.value}:{len(self.calls)}"
        self.holders[lock_id] = requester_id
        return LockAcquisitionResult.success(lock_id, datetime.now(timezone.utc))

    async def release_lock(self, lock_id: str, requester_id: str) -> bool:
        self.calls.append(("release", lock_id, requester_id))
        return self.holders.pop(lock_id, None) == requester_id

    async def check_lock_status(self, resource_id: str) -> list[LockInfo]:
        return []

    async def is_empty(self) -> bool:
        """Whether all was given back, soon."""
        for _ in range(10_000):
            if not self.holders:
                return True
            await asyncio.sleep(0.001)
        return False


def test_a_users_own_manager_works_in_place_of_ours(make_service: Make, ledgers: Ledgers) -> None:
    async def scenario() -> None:
        locks = OwnLocks()
        async with make_service(ledgers, lock_manager=locks) as service:
            assert (await service.coordinate_transaction(strong("t1"))).success
            acquired = [call[1:4] for call in locks.calls if call[0] == "acquire"]
            assert acquired == [(*touched, "t1") for touched in TOUCHED]
            waits = [call[4] for call in locks.calls if call[0] == "acquire"]
            assert all(isinstance(wait, int) and 1 <= wait <= 30 for wait in waits)
            assert await locks.is_empty()
            before = len(locks.calls)
            assert (await service.coordinate_transaction(request("t2"))).success
            assert len(locks.calls) == before, "a session takes no locks"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (LockAcquisitionResult.failed("somebody has it"), "somebody has it"),
        (LockAcquisitionResult.failed("a circle", ["t1", "t9"]), "t9"),
        (ConnectionError("no lock server today"), "no lock server today"),
        (LockAcquisitionResult(True), "must have its lock_id"),
    ],
)
def test_what_a_users_manager_refuses_changes_nothing_and_is_told(
    make_service: Make, ledgers: Ledgers, refusal: Any, words: str
) -> None:
    async def scenario() -> None:
        locks = OwnLocks()
        locks.refusal = refusal
        async with make_service(ledgers, lock_manager=locks) as service:
            result = await service.coordinate_transaction(strong("t1", timeout_seconds=5))
            assert result.outcome is Outcome.ABORTED
            assert words in (result.error_message or "")
            assert ledgers["left"].calls == [] and await locks.is_empty()

    asyncio.run(scenario())


def test_a_grant_of_a_users_manager_that_comes_too_late_is_given_back(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        locks = OwnLocks()
        locks.gate = asyncio.Event()
        async with make_service(ledgers, lock_manager=locks) as service:
            task = asyncio.create_task(service.coordinate_transaction(strong("t1")))
            while not locks.calls:
                await asyncio.sleep(0.001)
            assert await service.abort_coordination("t1", "changed my mind")
            assert (await task).outcome is Outcome.ABORTED
            locks.gate.set()
            while len(locks.calls) < 2:
                await asyncio.sleep(0.001)
            assert locks.calls[1][0] == "release" and await locks.is_empty()

    asyncio.run(scenario())


def test_a_manager_without_the_methods_is_refused_by_name(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigError, match=r"no method acquire_lock\(\)"):
            await make_service(ledgers, lock_manager=object()).start()

    asyncio.run(scenario())


def test_a_subclass_that_overrides_a_method_is_called(make_service: Make, ledgers: Ledgers) -> None:
    class Counting(LocalLockManager):
        asked = 0

        async def acquire_lock(self, *arguments: Any, **more: Any) -> LockAcquisitionResult:
            self.asked += 1
            return await super().acquire_lock(*arguments, **more)

    async def scenario() -> None:
        async with Counting() as manager, make_service(ledgers, lock_manager=manager) as service:
            assert (await service.coordinate_transaction(strong("t1"))).success
            assert manager.asked == len(TOUCHED)

    asyncio.run(scenario())


def test_the_command_line_shows_what_open_coordinations_hold(
    make_service: Make, ledgers: Ledgers, tmp_path: Path
) -> None:
    journal = str(tmp_path / "journal.db")

    async def scenario() -> None:
        gate = ledgers["left"].gate = asyncio.Event()
        # The stores cannot list what is prepared, so the begin record comes before the question.
        async with make_service(ledgers) as service:
            task = asyncio.create_task(service.coordinate_transaction(strong("t1")))
            await is_prepared(ledgers["left"])
            rows = await asyncio.to_thread(run_json, "locks", "--journal", journal)
            assert [(row["resource_id"], row["lock_type"]) for row in rows] == [
                (name, kind.value) for name, kind in TOUCHED
            ]
            assert {row["requester_id"] for row in rows} == {"t1"}
            assert all(row["state"] == "held" and row["fencing_token"] > 0 for row in rows)
            text = await asyncio.to_thread(run, "locks", "left/k", "--journal", journal)
            assert text.returncode == 0 and "exclusive" in text.stdout and "t1" in text.stdout
            none = await asyncio.to_thread(run, "locks", "else", "--journal", journal)
            assert (none.returncode, none.stdout) == (1, "nobody holds else\n")
            gate.set()
            assert (await task).success

    asyncio.run(scenario())
    over = run("locks", "--journal", journal)
    assert (over.returncode, over.stdout) == (0, "nobody holds a lock\n")


@pytest.mark.parametrize("kind", ["postgres", "zookeeper"])
def test_the_command_line_asks_a_manager_and_draws_who_waits(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = "/test/cli"
    if kind == "postgres":
        where = ["--postgres", lock_database(request)]
    else:
        where = ["--zookeeper", lock_ensemble(request), "--root", root]
    svg = tmp_path / "waits.svg"

    async def scenario() -> None:
        manager: PostgresLockManager | ZooKeeperLockManager
        if kind == "postgres":
            manager = PostgresLockManager(where[1])
        else:
            manager = ZooKeeperLockManager(where[1], root)
        async with manager:
            name = "cli/<script>"
            await manager.acquire_lock(name, X, "ann")
            waits = asyncio.create_task(manager.acquire_lock(name, X, "bob"))
            await until(lambda: manager.check_lock_status(name), ["held", "waiting"])
            rows = await asyncio.to_thread(run_json, "locks", name, *where)
            told = [(row["requester_id"], row["state"]) for row in rows]
            assert told == [("ann", "held"), ("bob", "waiting")]
            done = await asyncio.to_thread(run, "deadlocks", *where, "--svg", str(svg))
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == f"bob waits for ann, wants exclusive on {name}\n"
            dot = await asyncio.to_thread(run, "deadlocks", *where, "--dot")
            assert dot.stdout.startswith("digraph waits {")
            found = await asyncio.to_thread(run_json, "deadlocks", *where)
            assert (found["deadlocks"], found["waits"]) == ([], {"bob": ["ann"]})
            await manager.release_all("ann")
            assert (await waits).acquired

    asyncio.run(scenario())
    drawn = svg.read_text()
    assert drawn.startswith("<svg") and "&lt;script&gt;" in drawn and "<script" not in drawn


def test_usage_and_trouble_have_their_exit_codes(tmp_path: Path) -> None:
    asked = run("deadlocks", "--journal", str(tmp_path / "journal.db"))
    assert asked.returncode == 2 and "name its lock manager" in asked.stderr
    both = run("locks", "--postgres", "a", "--zookeeper", "b")
    assert both.returncode == 2
    missing = run("locks", "--journal", str(tmp_path / "none.db"))
    assert missing.returncode == 1 and "no journal" in missing.stderr
    odd = run("locks", "--zookeeper", "host:port")
    assert odd.returncode == 1 and "host:port" in odd.stderr
    assert json.loads(run("version", "--json").stdout)


@pytest.mark.parametrize("kind", ["postgres", "zookeeper"])
def test_a_server_that_is_not_there_is_named_within_the_timeout(kind: str) -> None:
    async def scenario() -> None:
        manager: PostgresLockManager | ZooKeeperLockManager
        if kind == "postgres":
            manager = PostgresLockManager("postgresql://postgres:secret@127.0.0.1:9/x")
        else:
            manager = ZooKeeperLockManager("127.0.0.1:9", credentials=("ann", "secret"))
        asked = manager.acquire_lock("r", X, "ann", 0.5)
        with pytest.raises(LockError, match=r"127\.0\.0\.1:9") as caught:
            await asyncio.wait_for(asked, 20)
        assert caught.value.code == "lock.unavailable" and "secret" not in str(caught.value)
        await manager.close()

    asyncio.run(scenario())


def test_arguments_of_managers_are_checked_when_they_are_made() -> None:
    for make in (
        lambda: LocalLockManager(max_wait_time_seconds=0),
        lambda: LocalLockManager(lease_seconds=-1),
        lambda: PostgresLockManager(""),
        lambda: PostgresLockManager("x", connections=0),
        lambda: PostgresLockManager("x", session_timeout_ms=0),
        lambda: ZooKeeperLockManager("x", detection_interval_seconds=0),
        lambda: ZooKeeperLockManager("x", lock_root_path=""),
    ):
        with pytest.raises(ConfigError):
            make()


@pytest.mark.parametrize("ending", ["returns", "is killed"])
@pytest.mark.parametrize("kind", ["postgres", "zookeeper"])
def test_the_lock_of_a_process_that_ends_goes_to_the_next(
    kind: str, ending: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    # Whoever returns lets go at exit; whoever is killed is given up when its session is over.
    session_ms = 60_000 if ending == "returns" else 1_000
    name = fresh()
    if kind == "postgres":
        made = f"PostgresLockManager({lock_database(request)!r}, session_timeout_ms={session_ms})"
    else:
        made = f"ZooKeeperLockManager({lock_ensemble(request)!r}, '/test/end', {session_ms})"
    end = "" if ending == "returns" else "os.kill(os.getpid(), signal.SIGKILL)"
    code, output, complaints = run_program(
        f"""
        import signal
        from unanimity import LockType, PostgresLockManager, ZooKeeperLockManager

        async def main():
            manager = {made}
            assert (await manager.acquire_lock({name!r}, LockType.EXCLUSIVE, "first")).acquired
            print("held", flush=True)
            {end}

        asyncio.run(main())
        """,
        tmp_path,
    )
    assert (code, output, complaints) == (0 if ending == "returns" else -9, "held\n", "")

    over = time.monotonic()

    async def scenario() -> None:
        manager: PostgresLockManager | ZooKeeperLockManager = eval(made)
        async with manager:
            granted = await manager.acquire_lock(name, X, "next", 25)
            assert granted.acquired, granted.error_message
            waited = time.monotonic() - over
            print(f"{kind}: the lock of a process that {ending} was free after {waited:.3f} s")
            # Of a session of one second; whoever returned held nothing any more.
            assert waited < 10
            await manager.release_all("next")

    asyncio.run(scenario())
