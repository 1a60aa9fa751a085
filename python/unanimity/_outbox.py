"""The outbox of a PostgreSQL database: the row that a user's own transaction writes.

Not its delivery, which is the engine's. Invariant: what is written is what the request says, as
JSON, bytes in the form in which the journal keeps them too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Generator
from typing import Any

from ._barrier_drivers import Query
from ._types import CoordinationRequest

_INSERT = (
    "INSERT INTO unanimity_outbox (id, coordination_type, participating_stores, operations, "
    "timeout_seconds, consistency_level, metadata) VALUES (?, ?, ?::text::jsonb, "
    "?::text::jsonb, ?, ?, ?::text::jsonb)"
)


def _bytes(value: object) -> dict[str, str]:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(bytes(value)).decode()}
    raise TypeError(f"a {type(value).__name__} cannot be written into the outbox; give plain JSON")


def write_intent(request: CoordinationRequest) -> Generator[Query, Any, None]:
    """Write one request."""
    if not isinstance(request, CoordinationRequest):
        raise TypeError(f"a {type(request).__name__} is no CoordinationRequest")

    def text(value: object) -> str:
        return json.dumps(value, default=_bytes, allow_nan=False)

    yield Query(
        _INSERT,
        (
            request.coordination_id,
            request.coordination_type.value,
            text(list(request.participating_stores)),
            text(list(request.operations)),
            float(request.timeout_seconds),
            request.consistency_level,
            text(dict(request.metadata)),
        ),
    )
