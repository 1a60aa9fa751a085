"""The loop's end of the bridge: it is woken by the engine, and runs store methods in lanes.

A lane is a task that runs one call after the other, so that a store's coroutine that never
suspends costs no task of its own; when one suspends, another lane goes on with the rest. A call
sees a real current task, and runs in the context of whoever asked for the coordination.

Invariants: one bridge for each event loop; every call that was taken is answered exactly once.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any
from weakref import WeakKeyDictionary

from . import _engine

_IDLE_LANES_MAX = 16
_SYNC_THREADS_MAX = 16
# A lane lets the loop's other tasks run after so many calls that did not suspend.
_CALLS_IN_A_ROW_MAX = 256

_lanes_of: WeakKeyDictionary[asyncio.AbstractEventLoop, Lanes] = WeakKeyDictionary()


def bridge_for_running_loop() -> _engine.Bridge:
    """Give the running loop's bridge, made on first use."""
    loop = asyncio.get_running_loop()
    lanes = _lanes_of.get(loop)
    if lanes is None:
        lanes = _lanes_of[loop] = Lanes(loop)
    return lanes.bridge


class Lanes:
    """The lanes of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the bridge and have the loop watch it."""
        self.bridge = _engine.Bridge()
        self._loop = loop
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._executor: ThreadPoolExecutor | None = None
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
        task = (
            self._loop.create_task(self._lane(), name="unanimity-lane", context=_LANE_CONTEXT)
            if _TASKS_TAKE_CONTEXT
            else self._loop.create_task(self._lane(), name="unanimity-lane")
        )
        # A lane that rests when the loop is thrown away is no mistake of anybody's.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _lane(self) -> None:
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
        if context is None:
            context = copy_context()
        try:
            if not is_async:
                coroutine = self._in_thread(method, arguments, keywords, context)
            elif keywords is None:
                coroutine = method(*arguments)
            else:
                coroutine = method(*arguments, **keywords)
            answer = await _Steps(self, coroutine, context, timeout)
        except asyncio.CancelledError as error:
            self.bridge.raised(token, error)
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            self.bridge.raised(token, error)
            raise
        except BaseException as error:
            self.bridge.raised(token, error)
        else:
            self.bridge.answer(token, answer)

    async def _in_thread(
        self,
        method: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any] | None,
        context: Context,
    ) -> Any:
        """Run a plain method in a thread of our own; it may still give something to await."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_SYNC_THREADS_MAX, "unanimity-store")
        # A context can be entered once at a time, and the loop's side of the call is in this one.
        inner = context.copy()
        answer = await self._loop.run_in_executor(
            self._executor, lambda: inner.run(method, *arguments, **(keywords or {}))
        )
        return await answer if hasattr(answer, "__await__") else answer

    def suspends(self) -> None:
        """A lane is about to wait: another one goes on with what is left."""
        if self.bridge.lane_suspends():
            self._start_lane()


class _Steps:
    """A coroutine, stepped in its own context and under its own time limit."""

    __slots__ = ("_context", "_coroutine", "_lanes", "_timeout")

    def __init__(
        self,
        lanes: Lanes,
        coroutine: Coroutine[Any, Any, Any],
        context: Context,
        timeout: float,
    ) -> None:
        self._lanes = lanes
        self._coroutine = coroutine
        self._context = context
        self._timeout = timeout

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        if not hasattr(coroutine, "send"):
            if not hasattr(coroutine, "__await__"):
                return coroutine
            coroutine = _await(coroutine)
        try:
            waited_for = self._context.run(coroutine.send, None)
        except StopIteration as stop:
            return stop.value
        return (yield from self._go_on(coroutine, waited_for))

    def _go_on(
        self, coroutine: Coroutine[Any, Any, Any], waited_for: Any
    ) -> Generator[Any, Any, Any]:
        """The coroutine has suspended: wait with it, until it ends or its time is over."""
        task = asyncio.current_task()
        assert task is not None
        limit = _Limit(task)
        timer = self._lanes._loop.call_later(self._timeout, limit.expire)
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
        except asyncio.CancelledError:
            if not limit.expired:
                raise
            if hasattr(task, "uncancel"):
                task.uncancel()
            raise TimeoutError(f"no answer within {self._timeout:g} s; it was cancelled") from None
        finally:
            timer.cancel()


class _Limit:
    """Cancels a lane's task when the time of its call is over."""

    __slots__ = ("_task", "expired")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self.expired = False

    def expire(self) -> None:
        self.expired = True
        self._task.cancel()


@types.coroutine
def _await(awaitable: Any) -> Generator[Any, Any, Any]:
    """Make a coroutine of anything that can be awaited."""
    return (yield from awaitable.__await__())


# Lanes outlive the caller that happened to start them, so they do not live in his context.
_LANE_CONTEXT = Context()
_TASKS_TAKE_CONTEXT = (
    "context" in asyncio.AbstractEventLoop.create_task.__kwdefaults__
    if (asyncio.AbstractEventLoop.create_task.__kwdefaults__)
    else False
)
