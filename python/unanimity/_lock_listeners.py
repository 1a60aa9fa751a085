"""Who wants to hear what happens to locks without asking: their loss, and their server's silence.

Not a lock manager. Invariant: callbacks run on the manager's event loop, and what one raises is
logged and keeps nobody else from hearing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections.abc import Callable
from typing import Any, Literal

from . import _engine

__all__ = ["Listeners", "LostCallback", "ResumedCallback", "SuspendedCallback"]

LostCallback = Callable[[str, str, str], Any]
SuspendedCallback = Callable[[str, str, float], Any]
ResumedCallback = Callable[[str, str], Any]
_What = Literal["on_lost", "on_suspended", "on_resumed"]

_LOG = logging.getLogger("unanimity.locks")


class Listeners:
    """The callbacks of one manager, by what they want to hear of."""

    def __init__(self) -> None:
        self._callbacks: dict[_What, list[Callable[..., Any]]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._native: _engine.LockManager | None = None
        self._listens = False

    def add(self, what: _What, callback: Callable[..., Any]) -> None:
        """Add one who wants to hear."""
        if not callable(callback):
            raise TypeError(f"callback is a {type(callback).__name__}; give something to call")
        self._callbacks.setdefault(what, []).append(callback)
        self._listen()

    def come_home(self, native: _engine.LockManager) -> None:
        """Take the manager that has an event loop now."""
        self._native = native
        self._listen()

    def _listen(self) -> None:
        """Listen to the native manager, once there are both it and somebody who wants to hear."""
        if self._native is None or not self._callbacks or self._listens:
            return
        self._listens = True
        # Weak: the engine's reference to it is not seen by the garbage collector.
        known = weakref.ref(self)

        def telling(what: _What) -> Callable[..., None]:
            def tell(*told: object) -> None:
                listeners = known()
                if listeners is not None:
                    listeners._tell(what, told)

            return tell

        self._native.listen(telling("on_lost"), telling("on_suspended"), telling("on_resumed"))

    def _tell(self, what: _What, told: tuple[object, ...]) -> None:
        for callback in list(self._callbacks.get(what, ())):
            try:
                started = callback(*told)
                if inspect.isawaitable(started):
                    task = asyncio.ensure_future(_logged(what, started))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            except Exception:
                _LOG.exception("an %s callback raised", what)


async def _logged(what: str, started: Any) -> None:
    try:
        await started
    except Exception:
        _LOG.exception("an %s callback raised", what)
