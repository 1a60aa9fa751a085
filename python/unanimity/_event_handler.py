"""What is done about events of coordinations: they are counted, told as alerts, and logged.

A service does the same for its own events by itself, without a bus. This is for whoever handles
the events of others, such as a program that watches a shared bus. Invariant: an event that is not
known, or lacks what it should have, is no error of the handler's caller.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._metrics import IAlertingService, IMetricsCollector
    from ._service import ICoordinationService

__all__ = ["CoordinationEventHandler"]

logger = logging.getLogger("unanimity.events")


class CoordinationEventHandler:
    """Counts events with a metrics collector, and tells an alerting service what needs somebody.

    `bus.subscribe("*", handler.handle_coordination_event)` hands it events. Of a collector the
    methods `increment_counter(name, labels=...)` and `record_histogram(name, seconds)` are called,
    of an alerting service `send_alert(severity=, title=, message=, details=)`, async or plain.
    """

    def __init__(
        self,
        coordination_service: ICoordinationService | None,
        metrics_collector: IMetricsCollector | Any,
        alerting_service: IAlertingService | Any,
    ) -> None:
        """Remember them; a collector or an alerting service may be None."""
        self.coordination_service = coordination_service
        self.metrics = metrics_collector
        self.alerting = alerting_service

    async def handle_coordination_event(self, event: Mapping[str, Any]) -> None:
        """Do what is to be done about one event; nothing for a type that is not known.

        What the collector or the alerting service raises is raised, so that a bus tries again.
        """
        event_type = event.get("type")
        if event_type == "COORDINATION_STARTED":
            await self._handle_coordination_started(event)
        elif event_type == "COORDINATION_COMPLETED":
            await self._handle_coordination_completed(event)
        elif event_type == "COORDINATION_FAILED":
            await self._handle_coordination_failed(event)
        elif event_type == "DEADLOCK_DETECTED":
            await self._handle_deadlock_detected(event)
        elif event_type == "PARTITION_DETECTED":
            await self._handle_partition_detected(event)

    async def _handle_coordination_started(self, event: Mapping[str, Any]) -> None:
        kind = str(event.get("coordination_type", "unknown"))
        self._count("coordination_transactions_started_total", {"type": kind})
        logger.debug("coordination %s started (%s)", event.get("coordination_id"), kind)

    async def _handle_coordination_completed(self, event: Mapping[str, Any]) -> None:
        success = str(event.get("success", False))
        self._count("coordination_transactions_completed_total", {"success": success})
        duration_ms = event.get("execution_duration_ms")
        if self.metrics is not None and isinstance(duration_ms, (int, float)):
            name = "coordination_transaction_duration_seconds"
            self.metrics.record_histogram(name, duration_ms / 1000.0)
        logger.debug(
            "coordination %s completed (success: %s, %s ms)",
            event.get("coordination_id"),
            success,
            duration_ms,
        )

    async def _handle_coordination_failed(self, event: Mapping[str, Any]) -> None:
        self._count("coordination_transactions_failed_total")
        coordination_id, message = event.get("coordination_id"), event.get("error_message")
        logger.error("coordination %s waits for an operator: %s", coordination_id, message)
        await self._alert(
            "high",
            "Coordination Failed",
            f"Coordination {coordination_id} failed: {message}",
            {"coordination_id": coordination_id, "failed_at": event.get("failed_at")},
        )

    async def _handle_deadlock_detected(self, event: Mapping[str, Any]) -> None:
        self._count("coordination_deadlocks_detected_total")
        victim, cycle = event.get("victim_transaction"), event.get("deadlock_cycle")
        logger.warning("deadlock detected, victim: %s, cycle: %s", victim, cycle)
        await self._alert(
            "medium",
            "Deadlock Detected",
            f"Deadlock detected, aborting transaction: {victim}",
            {"deadlock_cycle": cycle},
        )

    async def _handle_partition_detected(self, event: Mapping[str, Any]) -> None:
        self._count("coordination_partitions_detected_total")
        node, unreachable = event.get("node_id"), event.get("unreachable")
        logger.error("node %s reaches no majority; unreachable: %s", node, unreachable)
        await self._alert(
            "high",
            "Partition Detected",
            f"Node {node} has no majority in reach; it does not reach {unreachable}",
            {"node_id": node, "unreachable": unreachable},
        )

    def _count(self, name: str, labels: dict[str, str] | None = None) -> None:
        if self.metrics is None:
            return
        if labels is None:
            self.metrics.increment_counter(name)
        else:
            self.metrics.increment_counter(name, labels=labels)

    async def _alert(
        self, severity: str, title: str, message: str, details: dict[str, Any]
    ) -> None:
        if self.alerting is None:
            return
        sent = self.alerting.send_alert(
            severity=severity, title=title, message=message, details=details
        )
        if inspect.isawaitable(sent):
            await sent
