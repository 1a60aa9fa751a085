"""Stores of ill manners, for the boundary's tests. All of them keep the contract of a store.

Invariant: each says in `at` when it has reached the interesting moment.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from ledger import Ledger
from unanimity import AbortResult, CommitResult, PrepareRequest, PrepareResult


class Gated(Ledger):
    """Waits in prepare, or in commit, until its gate is opened."""

    def __init__(self, name: str, where: str = "prepare") -> None:
        super().__init__(name)
        self.where = where
        self.opened = asyncio.Event()
        self.at = asyncio.Event()
        self.left: list[str] = []

    async def _wait(self, here: str) -> None:
        if self.where == here:
            self.at.set()
            try:
                await self.opened.wait()
            finally:
                self.left.append(here)

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        await self._wait("prepare")
        return await super().prepare_transaction(request)

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        await self._wait("commit")
        return await super().commit_transaction(transaction_id)


class Stubborn(Gated):
    """Swallows every cancellation of its prepare until its gate is opened."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.cancelled = 0

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        self.at.set()
        while not self.opened.is_set():
            try:
                await self.opened.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
        return PrepareResult(self.store_name, "COMMIT")


class Plain:
    """Plain methods, which block: a thread's work. No base class."""

    def __init__(self, name: str) -> None:
        self.store_name = name
        self.at = threading.Event()
        self.opened = threading.Event()
        self.threads: set[str] = set()
        self.values: dict[str, Any] = {}

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        self.threads.add(threading.current_thread().name)
        self.at.set()
        self.opened.wait(30)
        self.values[request.transaction_id] = request.operations
        return PrepareResult(self.store_name, "COMMIT")

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        return CommitResult(self.store_name, "SUCCESS")

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        self.values.pop(transaction_id, None)
        return AbortResult(self.store_name, "SUCCESS")
