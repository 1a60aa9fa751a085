"""What people need to test what they build on unanimity. Not imported by the package itself.

    from unanimity.testing import check_store
    check_store("my_stores:make_index")

`check_store` proves that a store keeps a participant's duties, also across a real SIGKILL;
docs/testing.md has the whole. A plugin for pytest comes with the package (`_pytest_plugin`).
Invariant: nothing here changes the engine: what is tested is what is shipped.
"""

from __future__ import annotations

from ._check import DutyBroken, DutyResult, StoreReport, acheck_store, check_store, duty_names
from ._words import StoreWords

__all__ = [
    "DutyBroken",
    "DutyResult",
    "StoreReport",
    "StoreWords",
    "acheck_store",
    "check_store",
    "duty_names",
]
