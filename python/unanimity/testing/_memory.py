"""A service for tests that leaves nothing behind: journal and stores in memory, short timeouts.

Not a mock: it is the service itself, with its real rules. The engine's clock cannot be moved from
Python, so time is not simulated here; what would take long is made short instead. Invariant: no
file is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .._service import CoordinationService
from ..stores import MemoryStore

_TIMEOUTS = {
    "default_transaction_timeout_seconds": 5,
    "prepare_phase_timeout_seconds": 1,
    "commit_phase_timeout_seconds": 1,
    "lock_acquisition_timeout_seconds": 1,
}


def memory_service(
    stores: Mapping[str, Any] | Iterable[str] = ("left", "right"),
    *,
    timeouts: Mapping[str, float] | None = None,
    **more: Any,
) -> CoordinationService:
    """Make a service whose journal is in memory.

    `stores` are yours, or names, each of a `MemoryStore`. `timeouts` are keys of the
    configuration's `timeouts`; where none is given the phases take a second at most. `more` goes
    to `CoordinationService`.
    """
    if not isinstance(stores, Mapping):
        stores = {name: MemoryStore(name) for name in stores}
    more.setdefault("journal", "memory:")
    more.setdefault("config", {"timeouts": {**_TIMEOUTS, **(timeouts or {})}})
    return CoordinationService(stores, **more)
