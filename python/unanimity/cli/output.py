"""How the command line prints: text or one JSON document. Not what it prints.

Invariants: with --json, stdout holds exactly one JSON document; times are ISO 8601 in UTC and bytes
are base64. Colours are for terminals: NO_COLOR and a dumb terminal have none, FORCE_COLOR has them
in a pipe too; without them the text is the same.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import TextIO

from .._views.data import as_json
from .._views.text import facts_text

_RED, _GREEN, _YELLOW, _CYAN = 31, 32, 33, 36
_COLOURS = {
    **dict.fromkeys(("committed", "ok"), _GREEN),
    **dict.fromkeys(("failed", "bad", "parked", "in doubt", "operator"), _RED),
    **dict.fromkeys(
        ("initiated", "preparing", "prepared", "committing", "aborting", "warning", "waiting"),
        _YELLOW,
    ),
    **dict.fromkeys(("orphaned",), _YELLOW),
    "note": _CYAN,
}
# A word that has a cell of its own: cells stand two spaces apart.
_CELL = re.compile(rf"(?m)(?:^|(?<=  ))({'|'.join(_COLOURS)})(?=  |$)")


class UsageError(Exception):
    """Arguments that do not go together: one line, and exit code 2."""


def print_json(value: object) -> None:
    """Print one JSON document."""
    print(as_json(value, indent=2))


def say(text: str) -> None:
    """Print text, its words of state in colours where they are wanted."""
    print(_CELL.sub(_coloured, text) if has_colours(sys.stdout) else text)


def _coloured(found: re.Match[str]) -> str:
    return f"\x1b[{_COLOURS[found[1]]}m{found[1]}\x1b[0m"


def has_colours(stream: TextIO) -> bool:
    """Whether what is written there may be coloured (no-color.org, force-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and stream.isatty()


def pairs(facts: Mapping[str, object]) -> str:
    """Facts one below the other, their names in one column."""
    return facts_text(list(facts.items()))


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
