"""The model of a view: a titled card with facts, tables, lanes of time, and graphs.

Plain data that says what is shown, in which order. Not how: the forms are `text`, `html`, `svg` and
`data`. Invariants: cells hold values, not their words, so that each form can say them in its way;
nothing in here was made harmless yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


class State(str):
    """A state's name, shown in its colour and in words."""

    __slots__ = ()

    @property
    def tone(self) -> str:
        """One of "good", "bad", "open"; empty for what is over and neither."""
        return _TONES.get(self, "open")


_TONES = {
    "committed": "good",
    "completed": "good",
    "held": "good",
    "leader": "good",
    "failed": "bad",
    "parked": "bad",
    "shutdown": "bad",
    "aborted": "",
    "compensated": "",
    "pending": "",
    "follower": "",
    "voter": "",
    "learner": "",
}


@dataclass(frozen=True)
class Facts:
    """Names with a value each."""

    rows: Sequence[tuple[str, object]]


@dataclass(frozen=True)
class Table:
    """Rows under headers. `empty` is said where there is no row; a table without it is left out."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    empty: str = ""


@dataclass(frozen=True)
class Span:
    """Something that took a while; `end` is None while it lasts.

    `phase` is "begin", "prepare", "wait", "decide", "commit", "abort", "execute", "fail" or
    "compensate".
    """

    phase: str
    begin: datetime
    end: datetime | None
    label: str


@dataclass(frozen=True)
class Lane:
    """What one party did, from left to right; `words` say it in a line."""

    name: str
    spans: Sequence[Span]
    words: str


@dataclass(frozen=True)
class Lanes:
    """A lane for each party over one axis of time, which ends where the last of them does."""

    title: str
    note: str
    begin: datetime
    end: datetime
    lanes: Sequence[Lane]


@dataclass(frozen=True)
class Waits:
    """Who waits for whom; `wants` says for some what they wait for, in words."""

    waits: Mapping[str, Sequence[str]]
    wants: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Steps:
    """The operations of a saga; with a record or a result of it, how far they came.

    `is_titled` is False where the coordination and its state stand above it already.
    """

    coordination_id: str
    operations: Sequence[Mapping[str, Any]]
    record: Any
    is_titled: bool = True


Picture = Lanes | Waits | Steps
Section = Facts | Table | Lanes | Waits | Steps


@dataclass(frozen=True)
class View:
    """Something to be looked at. `data` is what it was made of: programs get that, in JSON."""

    title: str
    data: object
    sections: Sequence[Section]

    def picture(self) -> Picture | None:
        """What can be drawn of it."""
        for section in self.sections:
            if isinstance(section, (Lanes, Waits, Steps)):
                return section
        return None
