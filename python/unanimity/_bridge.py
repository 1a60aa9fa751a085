"""The loop's end of the bridge: it is woken by the engine, and runs store methods in lanes.

A lane is a task that runs one call after the other, so that a store's coroutine that never
suspends costs no task of its own; when one suspends, another lane goes on with the rest. A call
sees a real current task, and runs in a copy of the context of whoever asked for the coordination.

Invariants: one bridge for each event loop, and it ends with the loop; every call that was taken
is answered exactly once; a lane that ends says so, however it ends, so that none is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import types
import weakref
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any

from . import _engine

# What the engine logs goes where its user says, and nowhere else.
logging.getLogger("unanimity").addHandler(logging.NullHandler())

_IDLE_LANES_MAX = 16
_SYNC_THREADS_MAX = 16
# A lane lets the loop's other tasks run after so many calls that did not suspend.
_CALLS_IN_A_ROW_MAX = 256

# The loop itself holds its lanes, through its watch on the descriptor, and drops them when it is
# closed; a strong reference here would keep every loop for ever.
_lanes_of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[Lanes]] = (
    weakref.WeakKeyDictionary()
)


def bridge_for_running_loop(threads: int | None = None) -> _engine.Bridge:
    """Give the running loop's bridge, made on first use.

    `threads` is how many may run plain methods of stores: of those that ask before the first one
    runs, who wants most is given it.
    """
    loop = asyncio.get_running_loop()
    known = _lanes_of.get(loop)
    lanes = None if known is None else known()
    if lanes is None:
        _close_those_of_closed_loops()
        lanes = Lanes(loop)
        _lanes_of[loop] = weakref.ref(lanes)
    if threads is not None:
        lanes.allow_threads(threads)
    return lanes.bridge


def _close_those_of_closed_loops() -> None:
    """End what a closed loop left, where something else still holds its lanes."""
    for loop, known in list(_lanes_of.items()):
        lanes = known()
        if lanes is not None and loop.is_closed():
            lanes.close()


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a plain function as plain methods of stores are, in a copy of the current context."""
    loop = asyncio.get_running_loop()
    bridge_for_running_loop()
    lanes = _lanes_of[loop]()
    assert lanes is not None, "the loop itself holds its lanes"
    return await lanes.in_thread(function, arguments, {}, copy_context())


class Lanes:
    """The lanes of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the bridge and have the loop watch it."""
        self.bridge = _engine.Bridge()
        self._loop = loop
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._executor: ThreadPoolExecutor | None = None
        self._threads_max: int | None = None
        self.close = weakref.finalize(self, _close, self.bridge, os.getpid())
        # At exit the engine itself flushes what is open.
        self.close.atexit = False
        loop.add_reader(self.bridge.fileno(), self._woken)

    def _woken(self) -> None:
        if self.bridge.woken():
            self._start_lane()

    def _start_lane(self) -> None:
        """Have one lane go on: one that rests, or a new one."""
        while self._idle:
            rest = self._idle.pop()
            if not rest.done():
                rest.set_result(None)
                return
        # Lanes outlive the caller that happened to start them, so they do not live in his context.
        task: asyncio.Task[None] = Context().run(self._new_task)
        self._tasks.add(task)
        task.add_done_callback(self._lane_ended)

    def _new_task(self) -> asyncio.Task[None]:
        task = self._loop.create_task(self._lane(), name="unanimity-lane")
        # A lane that rests when the loop is thrown away is no mistake of anybody's. Tasks of
        # somebody's own task factory may not have this.
        with contextlib.suppress(AttributeError):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    def _lane_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Seen, so that nobody complains: what got so far went on to whoever runs the loop.
            task.exception()
        # It may have been cancelled before it took the calls it was started for.
        self.bridge.lane_ended()

    async def _lane(self) -> None:
        try:
            await self._work()
        except (KeyboardInterrupt, SystemExit):
            # It may have come between the taking of a call and its first step.
            self.bridge.lane_dies()
            raise

    async def _work(self) -> None:
        next_call = self.bridge.next_call
        while True:
            for _ in range(_CALLS_IN_A_ROW_MAX):
                call = next_call()
                if call is None:
                    break
                await self._run(*call)
            else:
                await asyncio.sleep(0)
                continue
            if len(self._idle) >= _IDLE_LANES_MAX:
                return
            rest = self._loop.create_future()
            self._idle.append(rest)
            await rest

    async def _run(
        self,
        token: int,
        method: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any] | None,
        context: Context | None,
        is_async: bool,
        timeout: float,
    ) -> None:
        """Run one call and answer it, whatever it does."""
        # A copy for each call: several stores of one coordination run in turns, and what one sets
        # is neither the other's nor the caller's. After recovery there is no caller.
        context = Context() if context is None else context.copy()
        try:
            if not is_async:
                started = self.in_thread(method, arguments, keywords, context)
            elif keywords is None:
                started = context.run(method, *arguments)
            else:
                started = context.run(method, *arguments, **keywords)
            coroutine = started if type(started) is types.CoroutineType else _coroutine_of(started)
            # The first step is made here: a store that does not suspend needs nothing more.
            try:
                waited_for = context.run(coroutine.send, None)
            except StopIteration as stop:
                answer = stop.value
            else:
                answer = await _Rest(self, coroutine, waited_for, context, timeout)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit) as error:
            # These are meant for the lane too, or for whoever runs the loop.
            self.bridge.raised(token, error)
            raise
        except BaseException as error:
            self.bridge.raised(token, error)
        else:
            self.bridge.answer(token, answer)

    async def in_thread(
        self,
        method: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any] | None,
        context: Context,
    ) -> Any:
        """Run a plain method in a thread of our own; it may still give something to await."""
        # A context can be entered once at a time, and the loop's side of the call is in this one.
        inner = context.copy()
        answer = await self._loop.run_in_executor(
            self._threads(), inner.run, _call_plain, method, arguments, keywords or {}
        )
        return await answer if hasattr(answer, "__await__") else answer

    def allow_threads(self, threads: int) -> None:
        """Let so many threads run plain methods, if none does yet."""
        self._threads_max = max(threads, self._threads_max or 0)

    def _threads(self) -> ThreadPoolExecutor:
        if self._executor is None:
            executor = ThreadPoolExecutor(self._threads_max or _SYNC_THREADS_MAX, "unanimity-store")
            # Its threads end when they have nothing to do; nobody waits for one that hangs.
            ending = weakref.finalize(self, executor.shutdown, wait=False, cancel_futures=True)
            ending.atexit = False
            self._executor = executor
        return self._executor

    def suspends(self) -> None:
        """A lane is about to wait: another one goes on with what is left."""
        if self.bridge.lane_suspends():
            self._start_lane()

    def limit(self, timeout: float) -> _Limit:
        """Start the clock of the call that runs in the current task."""
        task = asyncio.current_task(self._loop)
        assert task is not None, "a lane is a task"
        return _Limit(self._loop, task, timeout)


def _close(bridge: _engine.Bridge, pid: int) -> None:
    """End the bridge of a loop that is closed or gone, unless it is that of a parent process."""
    if pid == os.getpid():
        bridge.close()


def _call_plain(
    method: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> Any:
    try:
        return method(*arguments, **keywords)
    except StopIteration as error:
        # A future cannot hold it, and whoever waits would do so for ever.
        raise RuntimeError("the method raised StopIteration") from error


class _Rest:
    """A coroutine that has suspended, stepped in its own context and under its own time limit."""

    __slots__ = ("_context", "_coroutine", "_lanes", "_timeout", "_waited_for")

    def __init__(
        self,
        lanes: Lanes,
        coroutine: Coroutine[Any, Any, Any],
        waited_for: Any,
        context: Context,
        timeout: float,
    ) -> None:
        self._lanes = lanes
        self._coroutine = coroutine
        self._waited_for = waited_for
        self._context = context
        self._timeout = timeout

    def __await__(self) -> Generator[Any, Any, Any]:
        """Wait with the coroutine, until it ends or its time is over."""
        coroutine, waited_for = self._coroutine, self._waited_for
        limit = self._lanes.limit(self._timeout)
        try:
            while True:
                self._lanes.suspends()
                try:
                    sent = yield waited_for
                except BaseException as error:
                    waited_for = self._context.run(coroutine.throw, error)
                else:
                    waited_for = self._context.run(coroutine.send, sent)
        except StopIteration as stop:
            return stop.value
        except asyncio.CancelledError as error:
            if not limit.expired:
                raise
            words = f"no answer within {self._timeout:g} s; it was cancelled"
            raise TimeoutError(words) from error
        finally:
            limit.lift()


class _Limit:
    """Cancels a lane's task when the time of its call is over."""

    __slots__ = ("_task", "_timer", "expired")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], timeout: float
    ) -> None:
        self._task = task
        self._timer = loop.call_later(timeout, self._expire)
        self.expired = False

    def _expire(self) -> None:
        self.expired = True
        self._task.cancel()

    def lift(self) -> None:
        """The call is over: its cancellation, if any, is not that of the lane's next one."""
        self._timer.cancel()
        if self.expired and hasattr(self._task, "uncancel"):
            self._task.uncancel()


def _coroutine_of(started: Any) -> Coroutine[Any, Any, Any]:
    """Make a coroutine of whatever an async method gave."""
    if hasattr(started, "send"):
        coroutine: Coroutine[Any, Any, Any] = started
        return coroutine
    if hasattr(started, "__await__"):
        return _await(started)
    return _plain(started)


async def _plain(answer: Any) -> Any:
    return answer


@types.coroutine
def _await(awaitable: Any) -> Generator[Any, Any, Any]:
    """Make a coroutine of anything that can be awaited."""
    return (yield from awaitable.__await__())
