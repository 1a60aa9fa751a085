"""What people need to test what they build on unanimity. Not imported by the package itself.

    from unanimity.testing import check_store
    check_store("my_stores:make_index")

`check_store` proves that a store keeps a participant's duties, also across a real SIGKILL;
docs/how-to/testing.md has the whole. A plugin for pytest comes with the package (`_pytest_plugin`).
Invariant: nothing here changes the engine: what is tested is what is shipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._check import DutyBroken, DutyResult, StoreReport, acheck_store, check_store, duty_names
from ._words import StoreWords

if TYPE_CHECKING:
    from ._faults import FaultInjected, Faults, Held, faults
    from ._memory import memory_service
    from ._replay import ReplayBroken, ReplayReport, ReplayResult, replay

__all__ = [
    # a store's duties
    "check_store",
    "acheck_store",
    "duty_names",
    "StoreWords",
    "StoreReport",
    "DutyResult",
    "DutyBroken",
    # faults
    "faults",
    "Faults",
    "FaultInjected",
    "Held",
    # crashes
    "replay",
    "ReplayReport",
    "ReplayResult",
    "ReplayBroken",
    # a service
    "memory_service",
]

_LATE = {
    "faults": "_faults",
    "Faults": "_faults",
    "FaultInjected": "_faults",
    "Held": "_faults",
    "memory_service": "_memory",
    "replay": "_replay",
    "ReplayReport": "_replay",
    "ReplayResult": "_replay",
    "ReplayBroken": "_replay",
}


def __getattr__(name: str) -> object:
    """Import what needs the service when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    globals()[name] = value
    return value
