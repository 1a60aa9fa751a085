"""What a store's method sees while it runs: its caller's context, a real task, its own limits."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from boundary.stores import Gated, Plain, Stubborn
from ledger import Ledger, request
from unanimity import (
    CommitResult,
    CoordinationService,
    IStorageStore,
    Outcome,
    PrepareRequest,
    PrepareResult,
    TransactionAborted,
    TransactionState,
)

Make = Callable[..., CoordinationService]
Prepare = Callable[[PrepareRequest], Coroutine[Any, Any, PrepareResult]]

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


class Doing(Ledger):
    """A store whose prepare does something first."""

    def __init__(self, name: str, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(name)
        self.what = what

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        await self.what()
        return await super().prepare_transaction(request)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_store_sees_its_callers_context_and_changes_a_copy(
    run: Callable[[Any], Any], make_service: Make
) -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(user.get())
        user.set("changed by a store")
        await asyncio.sleep(0)
        # Its own change, and not that of the other store, which ran meanwhile.
        assert user.get() == "changed by a store"

    async def ask(service: CoordinationService, name: str) -> None:
        user.set(name)
        (await service.coordinate_transaction(request(name))).raise_for_state()
        assert user.get() == name

    async def scenario() -> None:
        user.set("opener")
        stores = {"left": Doing("left", look), "right": Doing("right", look)}
        async with make_service(stores) as service:
            await asyncio.gather(ask(service, "anna"), ask(service, "boris"))
            assert user.get() == "opener"

    run(scenario())
    assert sorted(seen) == ["anna", "anna", "boris", "boris"]


def test_after_recovery_the_context_is_fresh(make_service: Make) -> None:
    seen: list[str] = []

    class Looking(Ledger):
        async def commit_transaction(self, transaction_id: str) -> CommitResult:
            seen.append(user.get())
            return await super().commit_transaction(transaction_id)

    async def begin() -> None:
        user.set("anna")
        gated = Gated("left", "commit")
        service = make_service({"left": gated, "right": Ledger("right")})
        task = asyncio.ensure_future(service.coordinate_transaction(request("t1")))
        await gated.at.wait()
        task.cancel()

    async def recover() -> None:
        user.set("boris")
        async with make_service({"left": Looking("left"), "right": Ledger("right")}) as service:
            result = await service.wait_for("t1", timeout=30)
            assert result.final_state is TransactionState.COMMITTED

    asyncio.run(begin())
    asyncio.run(recover())
    assert seen and set(seen) == {"nobody"}


class Scope:
    """A cancel scope as structured concurrency libraries have it: by the task it is entered in."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.expired = False

    async def __aenter__(self) -> Scope:
        task = asyncio.current_task()
        assert task is not None
        self.task: asyncio.Task[Any] = task
        self.timer = asyncio.get_running_loop().call_later(self.seconds, self.expire)
        return self

    def expire(self) -> None:
        self.expired = True
        self.task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.timer.cancel()
        assert asyncio.current_task() is self.task, "left in another task than entered"
        if self.expired and sys.version_info >= (3, 11):
            self.task.uncancel()
        return self.expired and kind is asyncio.CancelledError


async def _timeouts() -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.sleep(60), 0.01)
    if sys.version_info >= (3, 11):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        async with asyncio.timeout(60):
            await asyncio.sleep(0)


async def _scopes() -> None:
    async with Scope(0.01) as scope:
        await asyncio.sleep(60)
    assert scope.expired
    async with Scope(60) as outer, Scope(0.01) as inner:
        await asyncio.Event().wait()
    assert inner.expired and not outer.expired


async def _tasks() -> None:
    me = asyncio.current_task()
    assert me is not None and me in asyncio.all_tasks()

    async def nested(number: int) -> tuple[int, str]:
        assert asyncio.current_task() is not me
        await asyncio.sleep(0)
        return (number, user.get())

    user.set("a store")
    task = asyncio.create_task(nested(0))
    found = await asyncio.gather(task, *(nested(number) for number in range(1, 5)))
    assert found == [(number, "a store") for number in range(5)]
    assert asyncio.current_task() is me
    if sys.version_info >= (3, 11):
        async with asyncio.TaskGroup() as group:
            group.create_task(nested(7))
        with pytest.raises(ExceptionGroup):  # noqa: F821
            async with asyncio.TaskGroup() as group:
                group.create_task(_raises())
                group.create_task(asyncio.sleep(60))


async def _raises() -> None:
    raise LookupError("in a nested task")


async def _many_suspensions() -> None:
    for number in range(2_000):
        await asyncio.sleep(0.001 if number % 500 == 0 else 0)


@pytest.mark.parametrize("what", [_timeouts, _scopes, _tasks, _many_suspensions])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_asyncio_is_itself_inside_of_a_store(
    what: Callable[[], Coroutine[Any, Any, None]],
    run: Callable[[Any], Any],
    make_service: Make,
) -> None:
    async def scenario() -> None:
        stores = {"left": Doing("left", what), "right": Doing("right", what)}
        async with make_service(stores) as service:
            # Again and again: a lane that served one call serves the next.
            for turn in range(3):
                asked = [service.coordinate_transaction(request(f"{turn}-{n}")) for n in range(5)]
                for result in await asyncio.gather(*asked):
                    result.raise_for_state()

    run(scenario())


def test_plain_methods_run_in_threads_and_see_the_context(make_service: Make) -> None:
    seen: list[str] = []

    class Seeing(Plain):
        def commit_transaction(self, transaction_id: str) -> CommitResult:
            seen.append(user.get())
            user.set("changed in a thread")
            assert threading.current_thread() is not threading.main_thread()
            return super().commit_transaction(transaction_id)

    plain = Seeing("left")

    async def scenario() -> None:
        user.set("anna")
        async with make_service({"left": plain, "right": Ledger("right")}) as service:
            asked = asyncio.ensure_future(service.coordinate_transaction(request("t1")))
            while not plain.at.is_set():
                # The loop is free while the method blocks.
                await asyncio.sleep(0.001)
            plain.opened.set()
            (await asked).raise_for_state()
        assert user.get() == "anna"

    asyncio.run(scenario())
    assert seen == ["anna"]
    assert all(name.startswith("unanimity-store") for name in plain.threads)


def _counted(method: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that does not know of coroutines."""

    @functools.wraps(method)
    def wrapper(*arguments: Any) -> Any:
        return method(*arguments)

    return wrapper


class Decorated(IStorageStore):
    """Every way to write a method."""

    store_name = "left"

    @_counted
    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        await asyncio.sleep(0)
        return PrepareResult("left", "COMMIT")

    async def _commit(self, how: str, transaction_id: str) -> CommitResult:
        return CommitResult("left", how)

    def __init__(self) -> None:
        self.commit_transaction = functools.partial(self._commit, "SUCCESS")  # type: ignore[method-assign]


def test_decorated_methods_and_partials_are_called_as_they_are(make_service: Make) -> None:
    class CallMethod:
        async def __call__(self, transaction_id: str) -> CommitResult:
            await asyncio.sleep(0)
            return CommitResult("left", "SUCCESS")

    class Bare(Ledger):
        commit_transaction = CallMethod()

    class Aborting(Decorated):
        async def abort_transaction(self, transaction_id: str) -> Any:
            return CommitResult("left", "SUCCESS")

    async def scenario() -> None:
        async with make_service({"left": Aborting(), "right": Bare("right")}) as service:
            (await service.coordinate_transaction(request("t1"))).raise_for_state()

    asyncio.run(scenario())


def test_what_a_store_raises_is_the_cause_with_its_traceback(make_service: Make) -> None:
    async def burns() -> None:
        await asyncio.sleep(0)
        raise OSError("disk on fire")

    async def scenario() -> None:
        async with make_service(
            {"left": Ledger("left"), "right": Doing("right", burns)}
        ) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert result.outcome is Outcome.ABORTED
            for part in ("store 'right'", "prepare_transaction", "OSError", "disk on fire"):
                assert part in str(result.error_message)
            with pytest.raises(TransactionAborted) as caught:
                result.raise_for_state()
            cause = caught.value.__cause__
            assert isinstance(cause, OSError)
            frames = [frame.name for frame in traceback.extract_tb(cause.__traceback__)]
            assert frames[-2:] == ["prepare_transaction", "burns"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), GeneratorExit(), StopAsyncIteration(), StopIteration(1)],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_store_raises_the_next_calls_are_served(
    error: BaseException, make_service: Make
) -> None:
    left = Ledger("left")
    left.answer = error

    async def scenario() -> None:
        async with make_service({"left": left, "right": Ledger("right")}) as service:
            for turn in range(3):
                asked = [service.coordinate_transaction(request(f"{turn}-{n}")) for n in range(9)]
                results = await asyncio.wait_for(asyncio.gather(*asked), 20)
                assert all(result.outcome is Outcome.ABORTED for result in results)
            left.answer = None
            (await service.coordinate_transaction(request("good"))).raise_for_state()

    asyncio.run(scenario())


def test_a_hung_prepare_is_cancelled_at_its_timeout_and_cleans_up(make_service: Make) -> None:
    gated = Gated("left")

    async def scenario() -> None:
        config = {"timeouts": {"prepare_phase_timeout_seconds": 1}}
        stores = {"left": gated, "right": Ledger("right")}
        async with make_service(stores, config=config) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert result.outcome is Outcome.ABORTED
            assert "left" in str(result.error_message)
            await asyncio.wait_for(_until(lambda: gated.left == ["prepare"]), 10)
            # The lane that was cancelled serves on.
            gated.opened.set()
            (await service.coordinate_transaction(request("t2"))).raise_for_state()

    asyncio.run(scenario())


def test_one_that_swallows_its_cancellation_holds_nobody_up(make_service: Make) -> None:
    stubborn = Stubborn("left")

    async def use(service: CoordinationService) -> None:
        # No answer before the prepare has ended, or the request's own time.
        asked = service.coordinate_transaction(request("t1", timeout_seconds=3))
        result = await asyncio.wait_for(asked, 20)
        assert result.outcome is Outcome.ABORTED
        await asyncio.wait_for(_until(lambda: stubborn.cancelled == 1), 10)
        (await service.coordinate_transaction(request("t2", "right"))).raise_for_state()
        stubborn.opened.set()
        (await service.coordinate_transaction(request("t3"))).raise_for_state()
        ended = await service.wait_for("t1", timeout=20)
        assert ended.final_state is TransactionState.ABORTED

    async def scenario() -> None:
        config = {"timeouts": {"prepare_phase_timeout_seconds": 1}}
        stores = {"left": stubborn, "right": Ledger("right")}
        async with make_service(stores, config=config) as service:
            try:
                await use(service)
            finally:
                stubborn.opened.set()

    asyncio.run(scenario())


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)
