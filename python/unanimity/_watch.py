"""A live look: in a notebook an output that changes, elsewhere the first look and the last one.

Not the asking: that is given. Nothing is printed over, and there are no scripts: a notebook's own
display handle shows each look in the place of the one before. Invariants: it asks at most once at a
time; whoever cancels it gets his CancelledError, and the last look stays.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ._views.coordinations import overview_view
from ._views.model import View
from ._views.viewed import Viewed
from ._views.words import count_of

if TYPE_CHECKING:
    from ._records import CoordinationRecord, History

_Look = TypeVar("_Look", bound=Viewed)


class Overview(Viewed):
    """How many coordinations stand where, what is under way here, and what came last."""

    def __init__(self, status: dict[str, Any], active: list[str], latest: History) -> None:
        """Take what the journal and the service told."""
        self.journal: str = status["location"]
        """Where the journal is."""
        self.states: dict[str, int] = {k: int(v) for k, v in sorted(status["states"].items()) if v}
        """How many coordinations stand in each state, of those that the journal keeps."""
        self.active = active
        """The ids of those that this process has under way."""
        self.latest = latest
        """The latest, whoever began them."""

    def _view(self) -> View:
        return overview_view(self)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in self.states.items())
        return f"Overview({count_of(len(self.active), 'coordination')} under way; {states})"


class _Screen(Protocol):
    def show(self, look: Viewed) -> None:
        """Show it in the place of what was shown before."""

    def end(self) -> None:
        """There is nothing more to show."""


class _Notebook:
    """An output of a notebook."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None
        self._shown = ""

    def show(self, look: Viewed) -> None:
        html = look.to_html()
        if self._handle is None:
            self._handle = self._display(look, display_id=True)
        elif html != self._shown:
            self._handle.update(look)
        self._shown = html

    def end(self) -> None:
        """The last look stays."""


class _Lines:
    """A terminal, a file, whatever cannot change what it has shown."""

    def __init__(self) -> None:
        self._first: str | None = None
        self._last = ""

    def show(self, look: Viewed) -> None:
        text = look.to_text()
        if self._first is None:
            self._first = text
            print(text, flush=True)
        self._last = text

    def end(self) -> None:
        if self._last != (self._first or ""):
            print("\n" + self._last, flush=True)


def _screen() -> _Screen:
    # Nobody who runs in a notebook has not imported it.
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    if running is None or not hasattr(running, "kernel"):
        return _Lines()
    from IPython.display import display

    return _Notebook(display)


async def watch_one(
    describe: Callable[[], Awaitable[CoordinationRecord | None]],
    interval_seconds: float,
    timeout: float | None,
) -> CoordinationRecord | None:
    """Show a coordination until it has ended."""
    return await _watched(
        describe, lambda record: record.completed_at is not None, interval_seconds, timeout
    )


async def watch_all(
    look: Callable[[], Awaitable[Overview]], interval_seconds: float, timeout: float | None
) -> Overview | None:
    """Show all of them until the time is up, or somebody interrupts."""
    return await _watched(look, lambda overview: False, interval_seconds, timeout)


async def _watched(
    look: Callable[[], Awaitable[_Look | None]],
    is_over: Callable[[_Look], bool],
    interval_seconds: float,
    timeout: float | None,
) -> _Look | None:
    screen = _screen()
    until = None if timeout is None else monotonic() + timeout
    try:
        while True:
            seen = await look()
            if seen is None:
                return None
            screen.show(seen)
            left = interval_seconds if until is None else min(interval_seconds, until - monotonic())
            if is_over(seen) or left <= 0:
                return seen
            await asyncio.sleep(left)
    finally:
        screen.end()
