"""Locks to look at: who holds what and who waits for it, and who waits for whom.

A list and a dict, as lock managers have always answered, that can show themselves. Nothing here
asks a manager. Invariant: what is shown is what was answered, at one moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ._locks import LockInfo
from ._views.frames import Column, Framed
from ._views.graphs import draw_waits, wait_circles
from ._views.model import Facts, State, Table, View, Waits
from ._views.viewed import Drawn, Viewed
from ._views.words import count_of

_HEADERS = ("resource", "state", "lock", "requester", "since", "until", "token")


class LockTable(list[LockInfo], Viewed, Framed):
    """Holders and those who wait, by resource: a list that shows itself as a table."""

    def wants(self) -> dict[str, list[str]]:
        """What each of those that wait waits for, in words."""
        wants: dict[str, list[str]] = {}
        for info in self:
            if info.state == "waiting":
                words = f"{_value(info.lock_type)} on {info.resource_id}"
                wants.setdefault(info.requester_id, []).append(words)
        return wants

    def _view(self) -> View:
        rows = [
            (
                info.resource_id,
                State(info.state),
                _value(info.lock_type),
                info.requester_id,
                info.since,
                info.expires_at,
                info.fencing_token,
            )
            for info in self
        ]
        table = Table("", _HEADERS, rows, "nobody holds a lock")
        return View(self._title() if self else "", list(self), (table,))

    def _title(self) -> str:
        waiting = sum(info.state == "waiting" for info in self)
        resources = count_of(len({info.resource_id for info in self}), "resource")
        return f"{len(self) - waiting} held, {waiting} waiting, on {resources}"

    def _frame(self) -> tuple[Sequence[Column], Sequence[LockInfo]]:
        return _COLUMNS, self

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"LockTable({self._title()})"


def _value(lock_type: Any) -> str:
    """The word of a mode, also where a user's manager gives the word itself."""
    return str(getattr(lock_type, "value", lock_type))


_COLUMNS = (
    Column("resource_id", "text", lambda info: info.resource_id),
    Column("lock_type", "text", lambda info: _value(info.lock_type)),
    Column("requester_id", "text", lambda info: info.requester_id),
    Column("state", "text", lambda info: info.state),
    Column("lock_id", "text", lambda info: info.lock_id),
    Column("position", "whole", lambda info: info.position),
    Column("since", "time", lambda info: info.since),
    Column("expires_at", "time", lambda info: info.expires_at),
    Column("fencing_token", "whole", lambda info: info.fencing_token),
)


class WaitGraph(dict[str, list[str]], Drawn):
    """For each requester that waits, for whom: a dict that draws itself, with circles marked."""

    def __init__(
        self,
        waits: Mapping[str, Iterable[str]],
        wants: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """Take who waits for whom; `wants` says for some what they wait for, in words."""
        super().__init__({name: list(blockers) for name, blockers in waits.items()})
        self.wants = {name: list(words) for name, words in (wants or {}).items()}

    def circles(self) -> list[list[str]]:
        """For each knot of waits in a circle one of the shortest: each waits for the next."""
        return wait_circles(self)

    def to_dot(self) -> str:
        """Describe it for Graphviz."""
        return draw_waits(self, self.wants, "dot")

    def _view(self) -> View:
        circles = self.circles()
        data = {"deadlocks": circles, "waits": dict(self), "wants": self.wants}
        told = [("deadlock", " -> ".join([*circle, circle[0]])) for circle in circles]
        rows = [
            (name, ", ".join(blockers), ", ".join(self.wants.get(name, ())))
            for name, blockers in self.items()
        ]
        table = Table("", ("who waits", "for whom", "wants"), rows)
        sections = (Waits(self, self.wants), *((Facts(told),) if told else ()), table)
        return View("", data, sections)

    def to_text(self) -> str:
        """Show it for a terminal: a line for each wait, then the circles."""
        return draw_waits(self, self.wants, "text")

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        circles = count_of(len(self.circles()), "deadlock")
        return f"WaitGraph({count_of(len(self), 'requester')} waiting, {circles})"

    def __reduce__(self) -> tuple[object, ...]:
        return WaitGraph, (dict(self), self.wants)
