"""Metrics of what stands beside a service: other journals, projections, consensus, buses, logs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ledger import Ledger, request
from metric_readings import Reading, reading_when
from postgres_cluster import PostgresCluster
from unanimity import (
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    IStorageStore,
    Permanent,
)

Make = Callable[..., CoordinationService]
Ledgers = dict[str, Ledger]


def test_a_journal_in_postgres_measures_its_commits(
    postgres: PostgresCluster, make_service: Make, ledgers: Ledgers
) -> None:
    journal = postgres.dsn(postgres.create_database())

    async def scenario() -> Reading:
        async with make_service(ledgers, journal=journal) as service:
            assert (await service.coordinate_transaction(request("t1"))).success
            records = "coordination_journal_records_total"
            return await reading_when(service.metrics, lambda it: (it.value(records) or 0) >= 3)

    reading = asyncio.run(scenario())
    assert (reading.value("coordination_journal_sync_seconds_count") or 0) >= 2
    assert (reading.value("coordination_journal_sync_seconds_sum") or 0) > 0
    assert reading.value("coordination_journal_backlog_records") is None, "it has no log"


def test_a_parked_projection_is_counted_until_it_is_redriven(make_service: Make) -> None:
    class Index(IStorageStore):
        store_name = "index"
        is_broken = True

        async def apply_event(self, event: Any) -> None:
            if self.is_broken:
                raise Permanent("full")

    index = Index()
    parked, delivering = "coordination_parked_operations", "coordination_transactions_delivering"
    event = {"store": "index", "type": "paid", "stream": "a", "data": {}}

    async def scenario() -> None:
        async with make_service({"index": index}) as service:
            await service.coordinate_transaction(
                CoordinationRequest(
                    "e1",
                    CoordinationType.EVENT_SOURCING,
                    ["index"],
                    [event],
                    consistency_level="eventual",
                )
            )
            reading = await reading_when(service.metrics, lambda it: it.value(parked) == 1)
            assert reading.value("coordination_transactions_in_doubt") == 0
            assert reading.value("coordination_transactions_parked") == 0
            failures = "coordination_store_failures_total"
            assert reading.value(failures, phase="apply", store="index") == 1
            index.is_broken = False
            assert await service.redrive("projection:index")
            reading = await reading_when(service.metrics, lambda it: it.value(parked) == 0)
            await reading_when(service.metrics, lambda it: it.value(delivering) == 0)

    asyncio.run(scenario())


def test_questions_to_the_consensus_service_are_measured(
    make_service: Make, ledgers: Ledgers
) -> None:
    class Agreement:
        async def propose_coordination_decision(
            self, coordination_id: str, decision: str, evidence: dict[str, Any]
        ) -> bool:
            return coordination_id != "t2"

        async def get_consensus_status(self, coordination_id: str) -> dict[str, Any]:
            return {"decision": "ABORT", "evidence": {}}

    async def scenario() -> None:
        async with make_service(ledgers, consensus_service=Agreement()) as service:
            assert (await service.coordinate_transaction(request("t1"))).success
            assert not (await service.coordinate_transaction(request("t2"))).success
            took = "coordination_consensus_duration_seconds_count"
            reading = Reading(service.metrics.render())
            assert reading.value(took, question="propose") == 2
            assert reading.value(took, question="read") == 1

    asyncio.run(scenario())


class Bus:
    """Takes events only when it is let, or raises."""

    def __init__(self, raises: bool = False) -> None:
        self.raises = raises
        self.gate = asyncio.Event()

    async def publish_event(self, event: dict[str, Any]) -> None:
        if self.raises:
            raise ConnectionError("no bus today")
        await self.gate.wait()


def test_what_the_bus_has_not_taken_and_what_it_raised_is_counted(
    make_service: Make, ledgers: Ledgers, caplog: pytest.LogCaptureFixture
) -> None:
    under_way, errors = "coordination_events_under_way", "coordination_listener_errors_total"

    async def slow() -> None:
        bus = Bus()
        async with make_service(ledgers, event_bus=bus) as service:
            await service.coordinate_transaction(request("t1"))
            await reading_when(service.metrics, lambda it: it.value(under_way) == 2)
            bus.gate.set()
            await reading_when(service.metrics, lambda it: it.value(under_way) == 0)

    async def broken() -> None:
        async with make_service(ledgers, event_bus=Bus(raises=True)) as service:
            await service.coordinate_transaction(request("t2"))
            await reading_when(service.metrics, lambda it: it.value(errors, listener="bus") == 2)
            done = "coordination_transactions_completed_total"
            assert Reading(service.metrics.render()).value(done, success="True") == 1

    asyncio.run(slow())
    asyncio.run(broken())
    assert any("no bus today" in record.getMessage() for record in caplog.records)
