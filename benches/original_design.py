"""The original design's two-phase commit as plain asyncio code: the peer without durability.

It keeps that design's steps and their cost (contexts, events on a stub bus, a task and a
`wait_for` for each ask, one after the other awaited) and its faults: nothing is written down, so
that a crash between the phases is forgotten. Not a part of the package.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any, TypeVar

from unanimity import CoordinationRequest, CoordinationType, PrepareRequest, TransactionState

_Answer = TypeVar("_Answer")
_PREPARE_SECONDS = 30.0
_COMMIT_SECONDS = 60.0


@dataclass
class Result:
    """How a coordination ended."""

    coordination_id: str
    success: bool
    final_state: TransactionState
    error_message: str | None
    execution_duration_ms: int
    participating_stores: list[str]
    operations_completed: int
    operations_failed: int


@dataclass
class Context:
    """A coordination that is under way; it is in memory alone."""

    coordination_id: str
    coordination_type: CoordinationType
    participating_stores: list[str]
    operations: list[dict[str, Any]]
    timeout_seconds: int
    started_at: datetime
    state: Enum = TransactionState.INITIATED


class StubBus:
    """An event bus that takes events and does nothing with them."""

    async def publish_event(self, event: dict[str, Any]) -> None:
        """Take an event."""


class OriginalService:
    """Coordinates by tasks; what a subclass makes durable, it does in `decided`."""

    def __init__(self, stores: Mapping[str, Any]) -> None:
        """Take the stores; the bus is a stub."""
        self.stores = stores
        self.event_bus = StubBus()
        self.active_coordinations: dict[str, Context] = {}

    async def decided(self, coordination_id: str) -> None:
        """Do nothing: this is the step that the design left out."""

    async def close(self) -> None:
        """Nothing is open."""

    async def coordinate_transaction(self, request: CoordinationRequest) -> Result:
        """Run both phases, with an event before and after."""
        context = Context(
            request.coordination_id,
            request.coordination_type,
            request.participating_stores,
            request.operations,
            request.timeout_seconds,
            datetime.now(timezone.utc),
        )
        self.active_coordinations[request.coordination_id] = context
        try:
            await self.event_bus.publish_event(
                {
                    "type": "COORDINATION_STARTED",
                    "coordination_id": request.coordination_id,
                    "coordination_type": request.coordination_type.value,
                    "participating_stores": request.participating_stores,
                    "started_at": context.started_at.isoformat(),
                }
            )
            result = await self._two_phases(context)
            await self.event_bus.publish_event(
                {
                    "type": "COORDINATION_COMPLETED",
                    "coordination_id": request.coordination_id,
                    "success": result.success,
                    "final_state": result.final_state.value,
                    "execution_duration_ms": result.execution_duration_ms,
                }
            )
            return result
        finally:
            self.active_coordinations.pop(request.coordination_id, None)

    async def _two_phases(self, context: Context) -> Result:
        started_at = datetime.now(timezone.utc)
        context.state = TransactionState.PREPARING
        votes = await self._ask_all(
            {name: self._prepare(name, context) for name in context.participating_stores},
            _PREPARE_SECONDS,
        )
        if not all(vote.vote == "COMMIT" for vote in votes.values()):
            context.state = TransactionState.ABORTING
            await self._ask_all(
                {
                    name: self.stores[name].abort_transaction(context.coordination_id)
                    for name in context.participating_stores
                },
                _COMMIT_SECONDS,
            )
            return _result(
                context, TransactionState.ABORTED, "a participant voted ABORT", started_at
            )
        await self.decided(context.coordination_id)
        context.state = TransactionState.COMMITTING
        answers = await self._ask_all(
            {
                name: self.stores[name].commit_transaction(context.coordination_id)
                for name in context.participating_stores
            },
            _COMMIT_SECONDS,
        )
        if all(answer.status == "SUCCESS" for answer in answers.values()):
            context.state = TransactionState.COMMITTED
            return _result(context, TransactionState.COMMITTED, None, started_at)
        context.state = TransactionState.FAILED
        return _result(context, TransactionState.FAILED, "the commit phase failed", started_at)

    async def _prepare(self, name: str, context: Context) -> Any:
        operations = [each for each in context.operations if each.get("store") == name]
        request = PrepareRequest(context.coordination_id, operations, context.timeout_seconds)
        return await self.stores[name].prepare_transaction(request)

    async def _ask_all(
        self, asks: Mapping[str, Coroutine[Any, Any, _Answer]], seconds: float
    ) -> dict[str, _Answer]:
        """Start a task for each, and await them one after the other, as the design does."""
        tasks = [(name, asyncio.create_task(ask)) for name, ask in asks.items()]
        return {name: await asyncio.wait_for(task, seconds) for name, task in tasks}


def _result(
    context: Context, state: TransactionState, error_message: str | None, started_at: datetime
) -> Result:
    success = state is TransactionState.COMMITTED
    duration = datetime.now(timezone.utc) - started_at
    return Result(
        context.coordination_id,
        success,
        state,
        error_message,
        int(duration.total_seconds() * 1000),
        context.participating_stores,
        len(context.operations) if success else 0,
        0 if success else len(context.operations),
    )
