"""How the command line prints: text or one JSON document. Not what it prints.

Invariant: with --json, stdout holds exactly one JSON document; times are ISO 8601 in UTC and bytes
are base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any


def print_json(value: object) -> None:
    """Print one JSON document."""
    print(json.dumps(value, default=as_plain, indent=2, ensure_ascii=False))


def as_plain(value: object) -> Any:
    """Make of it what JSON can say."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be printed as JSON")


def pairs(facts: Mapping[str, object]) -> str:
    """Facts one below the other, their names in one column."""
    from .._display import plain

    width = max((len(name) for name in facts), default=0)
    return "\n".join(f"{name:<{width}}  {plain(value)}" for name, value in facts.items())
