"""What a service shows of itself: locks, who waits for whom, latencies, and a live look.

A part of `CoordinationService`; the journal's own records are in `_records`. Nothing is changed and
nothing is kept. Invariant: how much is asked for is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ._arguments import checked_text
from ._exceptions import InvalidRequest
from ._latency import LATENCY_COORDINATIONS_MAX, Latency
from ._lock_views import LockTable, WaitGraph
from ._types import CoordinationType, TransactionState
from ._watch import Overview, watch_all, watch_one

if TYPE_CHECKING:
    from ._records import CoordinationRecord, History

# Those that nothing happens to any more, unless by an operator.
_ENDED = ("committed", "aborted", "failed")
_OVERVIEW_COORDINATIONS = 12


class ServiceLooks:
    """What a service shows of itself; a part of `CoordinationService`."""

    async def _ask(self, question: Callable[..., Any]) -> Any:
        raise NotImplementedError

    async def _locks(self) -> Any:
        """The lock manager that strong coordinations take their locks from."""
        raise NotImplementedError

    if TYPE_CHECKING:

        async def history(
            self,
            *,
            state: TransactionState | str | Iterable[TransactionState | str] | None = None,
            coordination_type: CoordinationType | str | None = None,
            store: str | None = None,
            since: datetime | None = None,
            limit: int = 100,
        ) -> History:
            """The service's own."""

        async def describe(self, coordination_id: str) -> CoordinationRecord | None:
            """The service's own."""

        async def list_active_coordinations(self) -> list[str]:
            """The service's own."""

    async def locks(self, resource_id: str | None = None) -> LockTable:
        """List who holds locks and who waits for them, of all resources or of one.

        A shared lock manager tells of other processes too. Raises InvalidRequest where a lock
        manager of your own has no `list_locks()` and no resource is named.
        """
        manager = await self._locks()
        if resource_id is not None:
            return LockTable(
                await manager.check_lock_status(checked_text(resource_id, "resource_id"))
            )
        if not hasattr(manager, "list_locks"):
            raise InvalidRequest(
                f"{type(manager).__name__} has no list_locks(), so it cannot list all resources; "
                "name one with resource_id"
            )
        return LockTable(await manager.list_locks())

    async def locks_graph(self) -> WaitGraph:
        """Tell who waits for whom now, and for what; those in a circle are marked in its picture.

        Raises InvalidRequest where a lock manager of your own has no `wait_for_graph()`.
        """
        manager = await self._locks()
        if not hasattr(manager, "wait_for_graph"):
            raise InvalidRequest(
                f"{type(manager).__name__} has no wait_for_graph(), so it cannot tell who waits "
                "for whom"
            )
        wants = (
            LockTable(await manager.list_locks()).wants() if hasattr(manager, "list_locks") else {}
        )
        return WaitGraph(await manager.wait_for_graph(), wants)

    async def latency(
        self,
        *,
        coordination_type: CoordinationType | str | None = None,
        store: str | None = None,
        since: datetime | None = None,
        limit: int = 1000,
    ) -> Latency:
        """Tell how long coordinations took, by type and how they ended: p50, p90, p99, the longest.

        Made of the last `limit` (at most 10,000) coordinations that have ended, as the journal has
        them, those of other processes too; each from its begin record to its end record.
        """
        if isinstance(limit, int) and limit > LATENCY_COORDINATIONS_MAX:
            raise InvalidRequest(
                f"limit is {limit}; give a whole number from 1 to {LATENCY_COORDINATIONS_MAX}"
            )
        return Latency(
            await self.history(
                state=_ENDED,
                coordination_type=coordination_type,
                store=store,
                since=since,
                limit=limit,
            )
        )

    async def overview(self) -> Overview:
        """Tell how many coordinations stand where, and which were the latest."""
        status: dict[str, Any] = await self._ask(
            lambda coordinator, future: coordinator.journal_status(future)
        )
        latest = await self.history(limit=_OVERVIEW_COORDINATIONS)
        return Overview(status, await self.list_active_coordinations(), latest)

    async def watch(
        self,
        coordination_id: str | None = None,
        *,
        interval_seconds: float = 0.5,
        timeout: float | None = None,
    ) -> CoordinationRecord | Overview | None:
        """Show one coordination until it has ended, or all of them, as they change.

        In a notebook the cell's output is shown anew every `interval_seconds`; elsewhere it is
        printed at the beginning and at the end. It ends when the coordination has ended, when it is
        interrupted or cancelled, or after `timeout` seconds, and gives what was shown last. All of
        them have no end of their own. None where the id is not known.
        """
        if not 0.01 <= interval_seconds <= 3600:
            raise InvalidRequest(
                f"interval_seconds is {interval_seconds!r}; give a number from 0.01 to 3600"
            )
        if coordination_id is None:
            return await watch_all(self.overview, interval_seconds, timeout)
        checked_text(coordination_id, "coordination_id")
        return await watch_one(lambda: self.describe(coordination_id), interval_seconds, timeout)
