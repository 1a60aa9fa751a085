"""What the lock managers written in Rust have in common, as Python sees them.

A thin face: who waits for whom is decided in the engine, and a lock that is free is granted without
a future or another thread. Invariants: a manager belongs to the event loop and the process that
first used it; an await that is cancelled leaves no waiter and no lock behind; leaving an
`async with manager.lock(...)` waits until the release is acknowledged, also when cancelled. Over
400 lines, because the methods of one interface stand together.
"""

from __future__ import annotations

import asyncio
import logging
import os
from abc import abstractmethod
from asyncio import get_running_loop
from collections.abc import Callable, Iterable
from dataclasses import fields
from threading import get_ident
from types import TracebackType
from typing import Any, TypeVar

from . import _engine
from ._bridge import bridge_for_running_loop
from ._exceptions import ConfigError, InvalidRequest, LockError, LockLost, ServiceElsewhere
from ._lock_listeners import Listeners, LostCallback, ResumedCallback, SuspendedCallback
from ._lock_views import LockTable, WaitGraph
from ._locks import ActiveLock, Deadlock, IDistributedLockManager, LockAcquisitionResult, LockInfo
from ._types import LockType

__all__ = ["Holding", "NativeLockManager", "positive"]

_LOG = logging.getLogger("unanimity.locks")
_Answer = TypeVar("_Answer")
_Self = TypeVar("_Self", bound="NativeLockManager")


class NativeLockManager(IDistributedLockManager):
    """What the managers have in common. First use starts one; `async with` also closes it."""

    detects_deadlocks = True
    """Set to False before the first use: a deadlock then ends by the timeout of one who waits."""
    _times: tuple[float, float] = (0.0, 0.0)

    def __init__(
        self, *, max_wait_time_seconds: float | None = None, lease_seconds: float | None = None
    ) -> None:
        """Check the bounds; nothing is opened before the first use."""
        self._wait_max = positive(max_wait_time_seconds, "max_wait_time_seconds")
        self._lease = positive(lease_seconds, "lease_seconds")
        self._opened: _engine.LockManager | None = None
        self._native: _engine.LockManager
        self._loop: asyncio.AbstractEventLoop | None = None
        # Whether the home loop runs, and the thread that it was last seen in: where both hold, it
        # is the running loop. To ask for that one costs a system call before Python 3.12.
        self._home_runs: Callable[[], bool] = _never
        self._thread = 0
        self._pid = os.getpid()
        self._closed = False
        self._listeners = Listeners()

    def _timing(self) -> tuple[float, float | None]:
        """Session timeout and detection interval, of the managers that have them."""
        session, detection = self._times
        return session, detection if self.detects_deadlocks else None

    @abstractmethod
    def _open(self) -> _engine.LockManager:
        """Make the native manager."""

    # ---- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open it, and find out whether it answers; repeats do nothing."""
        self._come_home()
        await self._ask(self._native.reach())

    async def close(self) -> None:
        """End every wait, let go of every lock of this process; repeats do nothing."""
        if self._closed:
            return
        if self._opened is not None:
            self._come_home()
            future: asyncio.Future[bool] = get_running_loop().create_future()
            self._opened.close(future)
            self._closed, self._home_runs = True, _never
            await asyncio.shield(future)
        self._closed = True

    async def __aenter__(self: _Self) -> _Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def for_service(self) -> _engine.LockManager:
        """The engine's side of it, which knows no event loop."""
        if self._closed:
            raise _closed_error()
        if self._opened is None:
            self._pid = os.getpid()
            self._opened = self._open()
        return self._opened

    def _come_home(self) -> None:
        """Take the running loop as home, or refuse it if another one is."""
        loop = get_running_loop()
        native = self.for_service()
        pid = os.getpid()
        if pid != self._pid:
            raise ServiceElsewhere(
                f"this lock manager belongs to process {self._pid}, and this is process {pid}, "
                f"forked from it; make a new {type(self).__name__} after the fork",
                code="service.forked",
            )
        if self._loop is None:
            native.come_home(bridge_for_running_loop(), loop.create_future)
            self._native, self._loop = native, loop
            self._listeners.come_home(native)
        elif loop is not self._loop:
            raise ServiceElsewhere(
                f"this lock manager belongs to the event loop {self._loop!r} that first used it, "
                f"and this is {loop!r}; use it there, or make one manager for each loop",
                code="service.other_loop",
            )
        self._home_runs, self._thread = loop.is_running, get_ident()

    async def _ask(self, answer: _Answer | asyncio.Future[_Answer]) -> _Answer:
        """Wait for an answer that did not come at once."""
        return await answer if asyncio.isfuture(answer) else answer

    # ---- locking ----------------------------------------------------------------------------

    async def acquire_lock(
        self,
        resource_id: str,
        lock_type: LockType | str,
        requester_id: str,
        timeout_seconds: float | None = 300,
        *,
        lease_seconds: float | None = None,
    ) -> LockAcquisitionResult:
        """Wait for a lock until it is granted, refused, or the time is up.

        Time that is up and a deadlock are answers; a server that does not answer is a LockError.
        With a lease the lock is held so long and no longer, unless `renew` starts it anew.
        """
        if not self._home_runs() or get_ident() != self._thread:
            self._come_home()
        names = (resource_id, lock_type, requester_id)
        answer = self._native.acquire(names, timeout_seconds, lease_seconds)
        if isinstance(answer, _engine.LockWait):
            return await _awaited(answer)
        return answer

    async def release_lock(self, lock_id: str, requester_id: str) -> bool:
        """Let go of a lock; False where the requester does not hold it."""
        if not self._home_runs() or get_ident() != self._thread:
            self._come_home()
        answer = self._native.release(lock_id, requester_id)
        if answer is True or answer is False:
            return answer
        return await answer

    def lock(
        self,
        resource_id: str,
        lock_type: LockType | str,
        requester_id: str,
        timeout_seconds: float | None = 300,
        *,
        lease_seconds: float | None = None,
    ) -> Holding:
        """Hold a lock for an `async with` block, which is given the ActiveLock.

        Raises LockTimeout, DeadlockDetected or LockError instead of entering, and LockLost on
        leaving when the lock was not held to the end.
        """
        return Holding(self, (resource_id, lock_type, requester_id), timeout_seconds, lease_seconds)

    async def acquire_many(
        self,
        wishes: Iterable[tuple[str, LockType | str]],
        requester_id: str,
        timeout_seconds: float | None = 300,
        *,
        lease_seconds: float | None = None,
    ) -> list[ActiveLock]:
        """Take several locks, all or none, and give them in the order of `wishes`.

        They are taken in the order of the resources' names, so that two such calls never wait for
        each other. Raises LockTimeout, DeadlockDetected or LockError; then none is held.
        """
        if not self._home_runs() or get_ident() != self._thread:
            self._come_home()
        pairs = [(resource_id, lock_type) for resource_id, lock_type in wishes]
        answer = self._native.hold_many(pairs, requester_id, timeout_seconds, lease_seconds)
        if isinstance(answer, _engine.LockWait):
            return await _awaited(answer)
        return answer

    async def renew(self, lock_id: str, lease_seconds: float | None = None) -> bool:
        """Start a lock's lease anew from now; False where it is held no more.

        A lock without a lease needs no renewal: then this only says whether it is held.
        """
        self._come_home()
        lease = positive(lease_seconds, "lease_seconds") or self._lease
        if lease is not None:
            return await self._ask(self._native.renew(lock_id, lease))
        held = await self._held(lock_id)
        if held is not None and held.expires_at is not None:
            raise InvalidRequest(
                f"the lock {lock_id} has a lease; say for how long to renew it with lease_seconds",
                code="lock.invalid",
            )
        return held is not None

    async def downgrade(
        self, lock: str | ActiveLock, lock_type: LockType | str, requester_id: str | None = None
    ) -> ActiveLock | None:
        """Change a lock for one in a weaker mode, which others that agree with it may then share.

        There is no moment in between in which the requester does not hold the weaker one. What
        comes back has an id and a fencing token of its own, and the lease that the lock had; None
        where the lock is held no more. An ActiveLock, as `lock()` gives it, is itself changed, so
        that its block goes on with the weaker lock; with a lock id give the requester too. When
        the await is cancelled the change is made all the same.
        """
        self._come_home()
        held: ActiveLock | None = None
        if isinstance(lock, ActiveLock):
            held = lock
            lock, requester_id = held.lock_id, held.requester_id
        if requester_id is None:
            raise TypeError("requester_id is None; give it with a lock id, or give the ActiveLock")
        answer = self._native.downgrade(lock, lock_type, requester_id)
        if not asyncio.isfuture(answer):
            return _taken_over(held, answer)
        cancelled = await _settled(answer)
        changed = _taken_over(held, answer.result())
        if cancelled is not None:
            raise cancelled
        return changed

    async def release_all(self, requester_id: str) -> int:
        """Let go of all that a requester holds and waits for; how many locks it held."""
        self._come_home()
        return await self._ask(self._native.release_all(requester_id))

    # ---- looking ----------------------------------------------------------------------------

    async def check_lock_status(self, resource_id: str) -> list[LockInfo]:
        """List the holders, then those who wait in their order."""
        self._come_home()
        if resource_id is None:
            raise TypeError("resource_id is None; give a str, or call list_locks()")
        return await self._ask(self._native.status(resource_id))

    async def list_locks(self) -> LockTable:
        """List the holders and those who wait of every resource."""
        self._come_home()
        infos = await self._ask(self._native.status(None))
        return LockTable(infos)

    async def wait_for_graph(self) -> WaitGraph:
        """Tell for each requester that waits, for whom it waits."""
        self._come_home()
        waits = await self._ask(self._native.wait_for_graph())
        return WaitGraph(waits)

    async def deadlocks(self) -> list[Deadlock]:
        """List the last deadlocks that this manager found, the latest first."""
        self._come_home()
        return self._native.deadlocks()

    async def _held(self, lock_id: str) -> LockInfo | None:
        if not isinstance(lock_id, str):
            raise TypeError(f"lock_id is a {type(lock_id).__name__}; give a str")
        resource_id, *rest = lock_id.rsplit(":", 2)
        if len(rest) != 2 or not resource_id:
            return None
        infos = await self.check_lock_status(resource_id)
        return next((info for info in infos if info.lock_id == lock_id), None)

    # ---- losses -----------------------------------------------------------------------------

    def on_lost(self, callback: LostCallback) -> None:
        """Have `callback(lock_id, requester_id, reason)` called for every lock that is lost.

        It runs on the manager's event loop, and may be a coroutine function.
        """
        self._listeners.add("on_lost", callback)

    def on_suspended(self, callback: SuspendedCallback) -> None:
        """Have `callback(lock_id, requester_id, seconds_left)` called when the server is silent.

        The lock is held for so many seconds more, and then lost, unless the server answers before:
        see `on_resumed`. Called for every lock that is held, as `on_lost` is.
        """
        self._listeners.add("on_suspended", callback)

    def on_resumed(self, callback: ResumedCallback) -> None:
        """Have `callback(lock_id, requester_id)` called when a suspended lock is held as before.

        Called as `on_lost` is.
        """
        self._listeners.add("on_resumed", callback)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._opened else "not started"
        return f"{type(self).__name__}({state})"


class Holding:
    """A lock for the length of an `async with` block."""

    __slots__ = ("_held", "_lease", "_manager", "_names", "_timeout")

    def __init__(
        self,
        manager: NativeLockManager,
        names: tuple[str, LockType | str, str],
        timeout: float | None,
        lease: float | None,
    ) -> None:
        self._manager = manager
        self._names = names
        self._timeout = timeout
        self._lease = lease
        self._held: ActiveLock | None = None

    async def __aenter__(self) -> ActiveLock:
        manager = self._manager
        if self._held is not None:
            raise LockError(
                f"{self._held.lock_id} is held by this block; call lock() once for each"
            )
        if not manager._home_runs() or get_ident() != manager._thread:
            manager._come_home()
        answer = manager._native.hold(self._names, self._timeout, self._lease)
        held = await _awaited(answer) if isinstance(answer, _engine.LockWait) else answer
        self._held = held
        return held

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        held, self._held = self._held, None
        assert held is not None, "a block is entered before it is left"
        try:
            was_held = await self._released(held)
        except LockError as trouble:
            if error is None:
                raise
            # What the block itself raised says more than that its lock could not be given back.
            _LOG.warning("lock %s was not released: %s", held.lock_id, trouble)
            return
        if error is None and not was_held:
            raise _lost_error(held)

    async def _released(self, held: ActiveLock) -> bool:
        """Let go, and wait until it is acknowledged, whatever is cancelled meanwhile."""
        if self._manager._closed:
            # The manager has let go of everything.
            return True
        answer = self._manager._native.release(held.lock_id, held.requester_id)
        if answer is True or answer is False:
            return answer
        cancelled = await _settled(answer)
        was_held = answer.result()
        if cancelled is not None:
            raise cancelled
        return was_held


def _never() -> bool:
    return False


async def _awaited(wait: _engine.LockWait[_Answer]) -> _Answer:
    """Wait for a grant; who stops waiting leaves nothing behind."""
    try:
        return await wait.future
    except BaseException:
        wait.give_up()
        raise


async def _settled(answer: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until it is answered, whatever is cancelled meanwhile; the cancellation then."""
    cancelled: asyncio.CancelledError | None = None
    while not answer.done():
        try:
            await asyncio.wait([answer])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _taken_over(held: ActiveLock | None, changed: ActiveLock | None) -> ActiveLock | None:
    """Make the lock that its block holds what it was changed for."""
    if held is None or changed is None:
        return changed
    for field in fields(ActiveLock):
        setattr(held, field.name, getattr(changed, field.name))
    return held


def _closed_error() -> LockError:
    return LockError("the lock manager is closed; make another one", code="lock.closed")


def _lost_error(held: ActiveLock) -> LockLost:
    error = LockLost(
        f"lock {held.lock_id} was not held to the end of the block: it was lost, or released inside"
    )
    error.lock_id = held.lock_id
    return error


def positive(value: object, name: str) -> float | None:
    """Take a number greater than 0, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigError(f"{name} is {value!r}; give a number greater than 0, or None")
    return float(value)
