"""A view for programs: what it was made of, as plain data and as JSON.

Not a format to restore objects from. Invariants: the result is what JSON can say, whatever users
put into metadata and results: times are ISO 8601 in UTC, bytes are base64 under "$bytes", numbers
that JSON has no word for are null.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any


def as_json(value: object, indent: int | None = None) -> str:
    """Make one JSON document."""
    return json.dumps(as_plain(value), indent=indent, ensure_ascii=False)


def as_plain(value: object) -> Any:
    """Make of it what JSON can say. A length of time becomes seconds."""
    if isinstance(value, Enum):
        return as_plain(value.value)
    if isinstance(value, str):
        # Half a character that Python allows, and UTF-8 does not.
        return str(value).encode("utf-8", "replace").decode()
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    return _as_plain_whole(value)


def _as_plain_whole(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(as_plain(name)): as_plain(inner) for name, inner in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, (list, tuple, Set)):
        return [as_plain(inner) for inner in value]
    # Whatever else a user's store gave as a result is shown, rather than nothing of the rest.
    return repr(value)
