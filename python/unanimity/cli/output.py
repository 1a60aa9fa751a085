"""How the command line prints: text or one JSON document. Not what it prints.

Invariant: with --json, stdout holds exactly one JSON document; times are ISO 8601 in UTC and bytes
are base64.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._views.data import as_json
from .._views.text import facts_text


def print_json(value: object) -> None:
    """Print one JSON document."""
    print(as_json(value, indent=2))


def pairs(facts: Mapping[str, object]) -> str:
    """Facts one below the other, their names in one column."""
    return facts_text(list(facts.items()))
