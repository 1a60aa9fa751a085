"""`unanimity top`: what runs, what is stuck, and how many end in a second; drawn again and again.

On a terminal until Ctrl-C; in a pipe, with --once or --json it is one look. It holds the journal
open for reading only. Invariant: one drawing is of one look.
"""

from __future__ import annotations

import shutil
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from .._display import plain, text_table
from .._records import CoordinationRecord, history_filter
from .journal import reading
from .output import pairs, print_json, say
from .stuck import Look, look

if TYPE_CHECKING:
    from .._engine import JournalReader

_OVER = ("committed", "aborted", "failed")
_HEADERS = ("coordination", "state", "type", "age", "stores", "why it stands")
_RECENT = timedelta(seconds=60)
_RECENT_MAX = 1_000
_HOME_AND_CLEAR = "\x1b[H\x1b[J"


@dataclass(frozen=True)
class Screen:
    """What is shown at one moment; rates are in coordinations a second."""

    journal: str
    at: datetime
    processes: int
    running: int
    stuck: int
    per_second: float
    states: dict[str, int]
    rows: list[dict[str, Any]]


class _Watch:
    """Looks again and again, and knows how many had ended at the look before."""

    def __init__(self, reader: JournalReader, after: float, limit: int) -> None:
        self._reader = reader
        self._after = after
        self._limit = limit
        self._before: tuple[float, int] | None = None

    def screen(self) -> Screen:
        status = self._reader.status()
        seen = look(self._reader, self._after, status["instances_alive"])
        states = {name: count for name, count in status["states"].items() if count}
        return Screen(
            journal=status["location"],
            at=datetime.now(timezone.utc),
            processes=len(seen.alive),
            running=len(seen.open) - len({one.coordination_id for one in seen.stuck}),
            stuck=len(seen.stuck),
            per_second=round(self._rate(states), 1),
            states=states,
            rows=_rows(seen)[: self._limit],
        )

    def _rate(self, states: dict[str, int]) -> float:
        """How many ended since the look before; at the first one, how many began lately."""
        ended, now = sum(states.get(name, 0) for name in _OVER), time.monotonic()
        before, self._before = self._before, (now, ended)
        if before is None:
            return self._lately()
        return max(0, ended - before[1]) / max(now - before[0], 0.001)

    def _lately(self) -> float:
        now = datetime.now(timezone.utc)
        recent = self._reader.history(history_filter(None, None, None, now - _RECENT, _RECENT_MAX))
        if len(recent) < _RECENT_MAX:
            return len(recent) / _RECENT.total_seconds()
        oldest = CoordinationRecord.from_engine(recent[-1]).created_at
        return len(recent) / max((now - oldest).total_seconds(), 0.001)


def _rows(seen: Look) -> list[dict[str, Any]]:
    """What is stuck before what runs, the oldest first."""
    why = {one.coordination_id: f"{one.kind}: {one.why}" for one in reversed(seen.stuck)}
    now = datetime.now(timezone.utc)
    rows = [
        {
            "coordination_id": record.coordination_id,
            "state": record.state.value,
            "type": record.coordination_type.value,
            "age_seconds": round(max(0.0, (now - record.created_at).total_seconds()), 1),
            "stores": record.participating_stores,
            "why": why.get(record.coordination_id),
        }
        for record in reversed(seen.open)
    ]
    return sorted(rows, key=lambda row: row["why"] is None)


def top_verb(arguments: Namespace) -> int:
    """Draw it, once or until it is interrupted."""
    is_once = arguments.once or arguments.json or not sys.stdout.isatty()
    with reading(arguments.journal) as reader:
        watch = _Watch(reader, arguments.after, arguments.limit)
        while True:
            screen = watch.screen()
            if arguments.json:
                print_json(screen)
            elif is_once:
                say(_text(screen))
            else:
                _draw(_text(screen))
            if is_once:
                return 0
            time.sleep(arguments.interval)


def _draw(text: str) -> None:
    """Over what was drawn before, and no more than the terminal has room for."""
    columns, lines = shutil.get_terminal_size()
    cut = [line[:columns] for line in text.splitlines()[: max(1, lines - 1)]]
    print(_HOME_AND_CLEAR, end="")
    say("\n".join(cut))
    sys.stdout.flush()


def _text(screen: Screen) -> str:
    states = ", ".join(f"{count} {name}" for name, count in sorted(screen.states.items()))
    facts = {
        "journal": screen.journal,
        "at": screen.at.strftime("%Y-%m-%d %H:%M:%SZ"),
        "processes": screen.processes,
        "running": screen.running,
        "stuck": screen.stuck,
        "a second": screen.per_second,
        "states": states or "none",
    }
    rows = [
        (
            row["coordination_id"],
            row["state"],
            row["type"],
            f"{row['age_seconds']:.1f} s",
            ", ".join(row["stores"]),
            plain(row["why"]),
        )
        for row in screen.rows
    ]
    table = text_table(_HEADERS, rows) if rows else "nothing is under way"
    return f"{pairs(facts)}\n\n{table}"
