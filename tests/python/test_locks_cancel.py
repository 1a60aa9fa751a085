"""Cancellation, event loops and processes: what a lock manager owes to those that go away."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from boundary.programs import run as run_program
from lock_backends import KINDS, Manager, fresh, make_manager, until
from unanimity import LocalLockManager, LockType, ServiceElsewhere

X, S = LockType.EXCLUSIVE, LockType.SHARED
# Fewer where each try is several round trips to a server.
TRIES = {"local": 1000, "postgres": 200, "zookeeper": 100, "raft": 200}
Run = Callable[[Callable[[Manager, int], Awaitable[None]]], None]


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest) -> Run:
    """Run a scenario with a manager of each kind and its number of tries."""

    def run_scenario(scenario: Callable[[Manager, int], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with make_manager(request.param, request) as manager:
                await scenario(manager, TRIES[request.param])
                assert await manager.list_locks() == []

        asyncio.run(whole())

    return run_scenario


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def is_free(manager: Manager, name: str) -> bool:
    """Nobody holds or waits, and the next one is granted at once."""
    await until(lambda: manager.check_lock_status(name), [])
    granted = await manager.acquire_lock(name, X, "next", 0)
    return granted.acquired and await manager.release_all("next") == 1


def test_an_acquire_that_is_cancelled_anywhere_leaves_no_waiter_and_no_lock(run: Run) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def scenario(manager: Manager, tries: int) -> None:
        ends = {"cancelled": 0, "granted": 0}
        for _ in range(tries):
            name = fresh()
            first = await manager.acquire_lock(name, X, "holder")
            assert first.lock_id is not None
            task = asyncio.create_task(manager.acquire_lock(name, X, "waiter", 60))
            # The release and the cancellation race in every order, the same turn included.
            steps = ["release", "cancel"]
            chance.shuffle(steps)
            release: asyncio.Task[bool] | None = None
            for step in steps:
                await turns(chance.randrange(4))
                if step == "release":
                    release = asyncio.create_task(manager.release_lock(first.lock_id, "holder"))
                else:
                    task.cancel()
            assert release is not None and await release
            try:
                granted = await task
            except asyncio.CancelledError:
                ends["cancelled"] += 1
            else:
                ends["granted"] += 1
                assert granted.lock_id is not None
                assert await manager.release_lock(granted.lock_id, "waiter")
            assert await is_free(manager, name)
        assert ends["cancelled"] > 0

    run(scenario)


@pytest.mark.parametrize("patience", range(5))
def test_a_grant_that_meets_a_cancellation_is_given_back(patience: int) -> None:
    async def scenario() -> None:
        async with LocalLockManager() as manager:
            first = await manager.acquire_lock("r", X, "holder")
            task = asyncio.create_task(manager.acquire_lock("r", X, "waiter", 60))
            await until(lambda: manager.check_lock_status("r"), ["held", "waiting"])
            assert first.lock_id is not None
            assert await manager.release_lock(first.lock_id, "holder")
            (info,) = await manager.check_lock_status("r")
            assert info.requester_id == "waiter"
            # Before, between and after: the future is completed when the loop looks at its
            # descriptor, and the task sees that one turn later.
            await turns(patience)
            if not task.done():
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                assert await manager.release_all("waiter") == 1
            assert await is_free(manager, "r")

    asyncio.run(scenario())


def test_a_block_that_is_cancelled_while_it_waits_never_begins(run: Run) -> None:
    async def scenario(manager: Manager, tries: int) -> None:
        name = fresh()
        async with manager.lock(name, X, "holder"):
            entered = False

            async def block() -> None:
                nonlocal entered
                async with manager.lock(name, X, "waiter"):
                    entered = True

            task = asyncio.create_task(block())
            await until(lambda: manager.check_lock_status(name), ["held", "waiting"])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not entered
            await until(lambda: manager.check_lock_status(name), ["held"])

    run(scenario)


def test_a_block_that_is_cancelled_inside_has_released_when_it_is_over(run: Run) -> None:
    async def scenario(manager: Manager, tries: int) -> None:
        for patience in range(6):
            name = fresh()
            inside = asyncio.Event()

            async def block(name: str = name, inside: asyncio.Event = inside) -> None:
                async with manager.lock(name, X, "holder"):
                    inside.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(block())
            await inside.wait()
            task.cancel()
            # A second one, while the release is on its way.
            await turns(patience)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await manager.check_lock_status(name) == []

    run(scenario)


def test_a_block_that_raises_has_released_when_it_is_over(run: Run) -> None:
    async def scenario(manager: Manager, tries: int) -> None:
        name = fresh()
        with pytest.raises(ZeroDivisionError):
            async with manager.lock(name, X, "holder"):
                raise ZeroDivisionError
        assert await manager.check_lock_status(name) == []
        with pytest.raises(ZeroDivisionError):
            async with manager.lock(name, X, "holder") as held:
                await manager.release_lock(held.lock_id, "holder")
                raise ZeroDivisionError

    run(scenario)


def test_several_locks_that_are_cancelled_are_all_given_back(run: Run) -> None:
    async def scenario(manager: Manager, tries: int) -> None:
        for patience in range(min(tries, 50)):
            names = [fresh(), fresh(), fresh()]
            wishes = [(name, X) for name in names]
            async with manager.lock(max(names), X, "holder"):
                task = asyncio.create_task(manager.acquire_many(wishes, "waiter", 60))
                await turns(patience % 8)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            for name in names:
                assert await is_free(manager, name)

    run(scenario)


def test_asyncio_timeouts_work_as_everywhere(run: Run) -> None:
    async def scenario(manager: Manager, tries: int) -> None:
        name = fresh()
        async with manager.lock(name, X, "holder"):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(manager.acquire_lock(name, X, "waiter"), 0.05)
            await until(lambda: manager.check_lock_status(name), ["held"])

    run(scenario)


def test_a_coroutine_that_is_thrown_away_leaves_nothing_behind() -> None:
    manager = LocalLockManager()

    async def scenario() -> None:
        await manager.acquire_lock("r", X, "holder")
        coroutine = manager.acquire_lock("r", X, "waiter", 60)
        coroutine.send(None)
        assert [info.state for info in await manager.check_lock_status("r")] == ["held", "waiting"]
        coroutine.close()
        gc.collect()
        assert [info.state for info in await manager.check_lock_status("r")] == ["held"]
        await manager.close()

    asyncio.run(scenario())


def test_a_manager_belongs_to_the_loop_that_first_used_it(request: pytest.FixtureRequest) -> None:
    for kind in KINDS:
        managers = [make_manager(kind, request)]

        async def use(managers: list[Manager] = managers) -> None:
            async with managers[0].lock("mine", X, "ann"):
                pass

        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
        try:
            first.run_until_complete(use())
            for attempt in (use, managers[0].close, managers[0].list_locks):
                with pytest.raises(ServiceElsewhere, match="one manager for each loop") as caught:
                    second.run_until_complete(attempt())
                assert caught.value.code == "service.other_loop"
            first.run_until_complete(managers[0].close())
        finally:
            first.close()
            second.close()


def test_a_manager_of_one_thread_is_refused_in_another() -> None:
    async def scenario() -> None:
        async with LocalLockManager() as manager:
            trouble: list[BaseException] = []

            def elsewhere() -> None:
                try:
                    asyncio.run(manager.acquire_lock("r", X, "ann"))
                except ServiceElsewhere as error:
                    trouble.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            await asyncio.to_thread(thread.join)
            assert len(trouble) == 1

    asyncio.run(scenario())


def test_a_forked_child_is_told_and_makes_a_manager_of_its_own(tmp_path: Path) -> None:
    code, output, complaints = run_program(
        """
        from unanimity import LocalLockManager, LockType

        X = LockType.EXCLUSIVE

        async def child(manager):
            uses = (
                lambda: manager.acquire_lock("r", X, "ann"),
                lambda: manager.check_lock_status("r"),
                lambda: manager.close(),
            )
            for use in uses:
                try:
                    await use()
                except ServiceElsewhere as error:
                    assert error.code == "service.forked", error.code
                    assert str(os.getppid()) in str(error), error
                else:
                    raise AssertionError(use)
            async with LocalLockManager() as mine:
                assert (await mine.acquire_lock("r", X, "ann")).acquired
            return 7

        async def parent():
            async with LocalLockManager() as manager:
                held = await manager.acquire_lock("r", X, "ann")
                waits = asyncio.create_task(manager.acquire_lock("r", X, "bob"))
                await asyncio.sleep(0)
                child_pid = os.fork()
                if child_pid == 0:
                    code = 99
                    try:
                        code = asyncio.run(child(manager))
                    finally:
                        os._exit(code)
                _, status = os.waitpid(child_pid, 0)
                assert await manager.release_lock(held.lock_id, "ann")
                assert (await waits).acquired
                print("child", os.waitstatus_to_exitcode(status))

        asyncio.run(parent())
        """,
        tmp_path,
    )
    assert (code, output, complaints) == (0, "child 7\n", "")


def test_programs_that_end_with_locks_held_and_waits_open_end_in_silence(tmp_path: Path) -> None:
    code, output, complaints = run_program(
        """
        from unanimity import LocalLockManager, LockType

        async def main():
            manager = LocalLockManager(lease_seconds=60)
            await manager.acquire_lock("r", LockType.EXCLUSIVE, "ann")
            waits = asyncio.create_task(manager.acquire_lock("r", LockType.EXCLUSIVE, "bob"))
            await asyncio.sleep(0)
            print("end")

        asyncio.run(main())
        """,
        tmp_path,
    )
    assert (code, output, complaints) == (0, "end\n", "")
