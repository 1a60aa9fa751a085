"""Event buses and metrics collectors: told after the fact, and unable to change it.

Invariant: whatever a listener does, an outcome is what it would have been without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from ledger import Ledger, request
from unanimity import CommitResult, CoordinationService, Outcome, PrepareResult
from unanimity.stores import MemoryStore

Make = Callable[..., CoordinationService]
Ledgers = dict[str, Ledger]


class Bus:
    """Keeps what is published; raises or hangs where it is told to."""

    def __init__(self, trouble: str = "") -> None:
        self.trouble = trouble
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def publish_event(self, event: dict[str, Any]) -> None:
        self.events.put_nowait(event)
        if self.trouble == "raises":
            raise ConnectionError("no bus today")
        if self.trouble == "hangs":
            await asyncio.Event().wait()

    async def next(self) -> dict[str, Any]:
        """The next event."""
        return await asyncio.wait_for(self.events.get(), 10)


class Metrics:
    """Keeps what is counted, or raises."""

    def __init__(self, raises: bool = False) -> None:
        self.raises = raises
        self.counted: list[tuple[str, Any]] = []
        self.more = asyncio.Event()

    def increment_counter(
        self, name: str, value: float = 1, labels: dict[str, str] | None = None
    ) -> None:
        self._keep(name, labels)

    def record_histogram(
        self, name: str, value: float, labels: dict[str, str] | None = None
    ) -> None:
        self._keep(name, value)

    def _keep(self, name: str, what: Any) -> None:
        self.counted.append((name, what))
        self.more.set()
        if self.raises:
            raise ZeroDivisionError("metrics")

    async def until(self, count: int) -> None:
        """Wait until so much was counted."""
        while len(self.counted) < count:
            self.more.clear()
            await asyncio.wait_for(self.more.wait(), 10)


def test_events_have_the_fields_of_the_contract(make_service: Make, ledgers: Ledgers) -> None:
    bus = Bus()

    async def scenario() -> None:
        async with make_service(ledgers, event_bus=bus) as service:
            await service.coordinate_transaction(request("good"))
            started, completed = await bus.next(), await bus.next()
            moment = datetime.fromisoformat(started.pop("started_at"))
            assert moment.tzinfo is not None
            assert started == {
                "type": "COORDINATION_STARTED",
                "coordination_id": "good",
                "coordination_type": "two_phase_commit",
                "participating_stores": ["left", "right"],
            }
            assert isinstance(completed.pop("execution_duration_ms"), int)
            assert completed == {
                "type": "COORDINATION_COMPLETED",
                "coordination_id": "good",
                "success": True,
                "final_state": "committed",
            }
            ledgers["left"].answer = PrepareResult("left", "ABORT", "no")
            await service.coordinate_transaction(request("bad"))
            assert (await bus.next())["type"] == "COORDINATION_STARTED"
            aborted = await bus.next()
            told = (aborted["type"], aborted["success"], aborted["final_state"])
            assert told == ("COORDINATION_COMPLETED", False, "aborted")
            ledgers["left"].answer = None
            ledgers["right"].commit_answer = CommitResult("right", "FAILED", "disk on fire")
            await service.coordinate_transaction(request("torn"))
            assert (await bus.next())["type"] == "COORDINATION_STARTED"
            failed = await bus.next()
            assert datetime.fromisoformat(failed.pop("failed_at")).tzinfo is not None
            assert "disk on fire" in failed.pop("error_message")
            assert failed == {"type": "COORDINATION_FAILED", "coordination_id": "torn"}

    asyncio.run(scenario())


def test_metrics_have_the_names_of_the_contract(make_service: Make, ledgers: Ledgers) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        async with make_service(ledgers, metrics_collector=metrics) as service:
            await service.coordinate_transaction(request("t1"))
            await metrics.until(3)

    asyncio.run(scenario())
    started, completed, (name, seconds) = metrics.counted
    assert started == ("coordination_transactions_started_total", {"type": "two_phase_commit"})
    assert completed == ("coordination_transactions_completed_total", {"success": "True"})
    assert name == "coordination_transaction_duration_seconds"
    assert 0 <= seconds < 10


@pytest.mark.parametrize("trouble", ["raises", "hangs"])
def test_a_broken_bus_and_collector_change_no_outcome_and_hold_nobody_up(
    make_service: Make, ledgers: Ledgers, trouble: str
) -> None:
    bus, metrics = Bus(trouble), Metrics(raises=trouble == "raises")

    async def scenario() -> None:
        service = make_service(ledgers, event_bus=bus, metrics_collector=metrics)
        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(
            *(service.coordinate_transaction(request(f"t{n}")) for n in range(50))
        )
        assert all(result.outcome is Outcome.COMMITTED for result in results)
        ledgers["left"].answer = PrepareResult("left", "ABORT", "no")
        result = await service.coordinate_transaction(request("bad"))
        assert result.outcome is Outcome.ABORTED
        assert asyncio.get_running_loop().time() - began < 5
        assert (await bus.next())["type"] == "COORDINATION_STARTED"
        await metrics.until(1)
        await asyncio.wait_for(service.close(timeout=1), 10)

    asyncio.run(scenario())


def test_what_waits_for_a_bus_that_hangs_is_bounded_and_the_rest_is_said_to_be_dropped(
    make_service: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus("hangs")
    stores = {"left": MemoryStore("left"), "right": MemoryStore("right")}
    most = 10_000

    async def worker(service: CoordinationService, number: int, count: int) -> int:
        key = str(number)
        operations = [
            {"store": name, "type": "put", "key": key, "value": number} for name in stores
        ]
        results = [
            await service.coordinate_transaction(
                request(f"t{number}-{index}", operations=operations)
            )
            for index in range(count)
        ]
        return sum(result.success for result in results)

    async def scenario() -> int:
        async with make_service(stores, event_bus=bus, journal="memory:") as service:
            # Two events each, and none of them is ever taken by the bus.
            done = await asyncio.gather(*(worker(service, number, 90) for number in range(64)))
            assert len(asyncio.all_tasks()) < most + 200
            return sum(done)

    assert asyncio.run(scenario()) == 64 * 90
    assert bus.events.qsize() <= most
    assert any("events are dropped" in record.getMessage() for record in caplog.records)
