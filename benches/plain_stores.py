"""Plain Python stores and the requests for them, the same for us and for every peer of W3.

A store stages in a dict and commits into another one; none of its coroutines suspends. Not
durable: what is measured is the coordination. Ids grow with time, as `service.transaction()`
mints them.
"""

from __future__ import annotations

import time
from typing import Any

from unanimity import (
    AbortResult,
    CommitResult,
    CoordinationRequest,
    CoordinationType,
    PrepareRequest,
    PrepareResult,
)

_KEYS = 1000
_FIRST = time.time_ns() // 1000


class PlainStore:
    """A store by duck typing that cannot name what is prepared."""

    def __init__(self, name: str) -> None:
        """Make an empty one."""
        self.store_name = name
        self.values: dict[str, Any] = {}
        self.staged: dict[str, list[dict[str, Any]]] = {}
        self.commits = 0

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        """Stage."""
        self.staged[request.transaction_id] = request.operations
        return PrepareResult(self.store_name, "COMMIT")

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Make it visible."""
        operations = self.staged.pop(transaction_id, None)
        if operations is not None:
            self.commits += 1
            for operation in operations:
                self.values[operation["key"]] = operation["value"]
        return CommitResult(self.store_name, "SUCCESS")

    async def abort_transaction(self, transaction_id: str) -> AbortResult:
        """Forget it."""
        self.staged.pop(transaction_id, None)
        return AbortResult(self.store_name, "SUCCESS")


class ListingStore(PlainStore):
    """One that can, so that the begin record need not be waited for."""

    prepared_list_is_exclusive = True

    async def list_prepared_transactions(self) -> list[str]:
        """Name what is staged."""
        return list(self.staged)


def coordination_id(number: int) -> str:
    """Make an id that is greater than those before it."""
    return f"{_FIRST + number:014x}000000000000000000"


def put_request(number: int) -> CoordinationRequest:
    """Ask to put one key into each of the stores "left" and "right"."""
    key = f"key-{number % _KEYS}"
    return CoordinationRequest(
        coordination_id(number),
        CoordinationType.TWO_PHASE_COMMIT,
        ["left", "right"],
        [
            {"store": "left", "type": "put", "key": key, "value": number},
            {"store": "right", "type": "put", "key": key, "value": number},
        ],
        30,
        "session",
        {},
    )


def check_agreement(left: PlainStore, right: PlainStore, at_least: int) -> None:
    """Fail where the stores do not hold the same, or less than was acknowledged."""
    if left.commits != right.commits or left.commits < at_least or left.values != right.values:
        raise AssertionError(f"{left.commits} and {right.commits} commits of {at_least}")
    if left.staged or right.staged:
        raise AssertionError(f"{len(left.staged) + len(right.staged)} are left prepared")
