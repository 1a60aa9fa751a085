"""CoordinationEventHandler: the five kinds of events are counted and told, on a bus or by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ledger import Ledger, request
from metric_readings import Reading, reading_when
from unanimity import (
    CoordinationEventHandler,
    CoordinationService,
    InProcessEventBus,
    PrometheusMetrics,
)

EVENTS: list[dict[str, Any]] = [
    {
        "type": "COORDINATION_STARTED",
        "coordination_id": "t1",
        "coordination_type": "two_phase_commit",
    },
    {
        "type": "COORDINATION_COMPLETED",
        "coordination_id": "t1",
        "success": True,
        "execution_duration_ms": 1500,
    },
    {"type": "COORDINATION_FAILED", "coordination_id": "t2", "error_message": "torn"},
    {"type": "DEADLOCK_DETECTED", "victim_transaction": "t3", "deadlock_cycle": ["t3", "t4"]},
    {"type": "PARTITION_DETECTED", "node_id": "a", "unreachable": ["b"]},
]


class Collector:
    """The original design's: two methods, and no more arguments than that gives."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def increment_counter(self, name: str, labels: dict[str, str] | None = None) -> None:
        self.told.append((name, labels))

    def record_histogram(self, name: str, value: float) -> None:
        self.told.append((name, value))


class Alerting:
    """The original design's."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    async def send_alert(
        self, severity: str, title: str, message: str, details: dict[str, Any]
    ) -> None:
        self.sent.append((severity, title, message, details))


class PlainAlerting(Alerting):
    """The same without async."""

    def send_alert(self, **keywords: Any) -> None:  # type: ignore[override]
        self.sent.append(tuple(keywords.values()))


@pytest.mark.parametrize("alerting", [Alerting(), PlainAlerting()])
def test_every_kind_of_event_is_counted_and_told(alerting: Alerting) -> None:
    collector = Collector()
    handler = CoordinationEventHandler(None, collector, alerting)

    async def scenario() -> None:
        for event in [*EVENTS, {"type": "SOMETHING_ELSE"}, {}]:
            await handler.handle_coordination_event(event)

    asyncio.run(scenario())
    assert collector.told == [
        ("coordination_transactions_started_total", {"type": "two_phase_commit"}),
        ("coordination_transactions_completed_total", {"success": "True"}),
        ("coordination_transaction_duration_seconds", 1.5),
        ("coordination_transactions_failed_total", None),
        ("coordination_deadlocks_detected_total", None),
        ("coordination_partitions_detected_total", None),
    ]
    assert [(severity, title) for severity, title, *_ in alerting.sent] == [
        ("high", "Coordination Failed"),
        ("medium", "Deadlock Detected"),
        ("high", "Partition Detected"),
    ]
    assert alerting.sent[1][2] == "Deadlock detected, aborting transaction: t3"
    assert alerting.sent[1][3] == {"deadlock_cycle": ["t3", "t4"]}


def test_without_a_collector_or_an_alerting_service_it_does_the_other_half() -> None:
    collector, alerting = Collector(), Alerting()

    async def scenario() -> None:
        for event in EVENTS:
            await CoordinationEventHandler(None, None, alerting).handle_coordination_event(event)
            await CoordinationEventHandler(None, collector, None).handle_coordination_event(event)
            bare = {"type": event["type"]}
            await CoordinationEventHandler(None, Collector(), None).handle_coordination_event(bare)

    asyncio.run(scenario())
    assert (len(collector.told), len(alerting.sent)) == (6, 3)


def test_a_collector_of_ours_shows_what_it_is_told_with_the_buckets_of_the_engine() -> None:
    metrics = PrometheusMetrics()
    handler = CoordinationEventHandler(None, metrics, None)

    async def scenario() -> None:
        for event in EVENTS:
            await handler.handle_coordination_event(event)

    asyncio.run(scenario())
    reading = Reading(metrics.render())
    duration = "coordination_transaction_duration_seconds"
    assert reading.value(duration + "_bucket", le="1") == 0
    assert reading.value(duration + "_bucket", le="2.5") == 1
    assert reading.helps[duration].startswith("From acceptance to the end")
    assert reading.value("coordination_transactions_failed_total") == 1


def test_one_that_is_wired_beside_a_service_does_not_count_twice(
    make_service: Callable[..., CoordinationService], ledgers: dict[str, Ledger]
) -> None:
    metrics = PrometheusMetrics()
    done = "coordination_transactions_completed_total"
    handled = 0

    async def scenario() -> None:
        async with (
            InProcessEventBus() as bus,
            make_service(ledgers, event_bus=bus, metrics_collector=metrics) as service,
        ):
            handler = CoordinationEventHandler(service, metrics, None)

            async def handle(event: dict[str, Any]) -> None:
                nonlocal handled
                await handler.handle_coordination_event(event)
                handled += 1

            await bus.subscribe("*", handle)
            await service.coordinate_transaction(request("t1"))
            while handled < 2:
                await asyncio.sleep(0.01)
            reading = await reading_when(metrics, lambda it: it.value(done, success="True"))
            assert reading.value(done, success="True") == 1

    asyncio.run(scenario())
