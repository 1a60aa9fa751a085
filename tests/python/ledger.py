"""A Python store for tests: it keeps what it was asked, and does as it was told beforehand.

A real store by duck typing, without the base class. Not a stand-in for the native ones.
"""

from __future__ import annotations

import asyncio
from typing import Any

from unanimity import (
    AbortResult,
    CommitResult,
    CoordinationRequest,
    CoordinationType,
    PrepareRequest,
    PrepareResult,
)


class Ledger:
    """Maps keys to values; `put` operations."""

    def __init__(self, name: str) -> None:
        self.store_name = name
        self.values: dict[str, Any] = {}
        self.staged: dict[str, list[dict[str, Any]]] = {}
        self.calls: list[tuple[str, str]] = []
        self.requests: list[PrepareRequest] = []
        self.answer: Any = None
        """What prepare gives (or raises) instead of a COMMIT vote."""
        self.commit_answer: Any = None
        """What commit gives (or raises) instead of SUCCESS."""
        self.gate: asyncio.Event | None = None
        """What prepare waits for."""

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        self.calls.append(("prepare", request.transaction_id))
        self.requests.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, BaseException):
            raise self.answer
        if self.answer is not None:
            return self.answer  # type: ignore[no-any-return]
        self.staged[request.transaction_id] = request.operations
        return PrepareResult(self.store_name, "COMMIT")

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        self.calls.append(("commit", transaction_id))
        if isinstance(self.commit_answer, BaseException):
            raise self.commit_answer
        if self.commit_answer is not None:
            return self.commit_answer  # type: ignore[no-any-return]
        for operation in self.staged.pop(transaction_id, []):
            self.values[operation["key"]] = operation["value"]
        return CommitResult(self.store_name, "SUCCESS")

    async def abort_transaction(self, transaction_id: str) -> AbortResult:
        self.calls.append(("abort", transaction_id))
        self.staged.pop(transaction_id, None)
        return AbortResult(self.store_name, "SUCCESS")

    async def list_prepared_transactions(self) -> list[str]:
        return list(self.staged)

    def asked(self, what: str) -> int:
        """How often it was asked to prepare, commit or abort."""
        return sum(1 for kind, _ in self.calls if kind == what)


def request(coordination_id: str, /, *stores: str, **changes: Any) -> CoordinationRequest:
    """A good request that puts key 1 into each store; `changes` are its fields."""
    names = list(stores) or ["left", "right"]
    fields: dict[str, Any] = {
        "coordination_id": coordination_id,
        "coordination_type": CoordinationType.TWO_PHASE_COMMIT,
        "participating_stores": names,
        "operations": [{"store": name, "type": "put", "key": "k", "value": 1} for name in names],
        "timeout_seconds": 30,
        "consistency_level": "session",
        "metadata": {},
        **changes,
    }
    return CoordinationRequest(**fields)
