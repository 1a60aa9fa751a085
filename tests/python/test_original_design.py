"""Code in the manner of the original design runs unchanged: five positional arguments, duck-typed
bus and collector, stores that know nothing of journals or recovery. Where the original's own code
would have answered wrongly, the right answer is given; each test says which fact it holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unanimity import (
    AbortResult,
    CommitResult,
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    PrepareRequest,
    PrepareResult,
    TransactionState,
)


class Store:
    """What the original calls: `store_name` and the three methods."""

    def __init__(self, store_name: str, vote: str = "COMMIT", hangs: bool = False) -> None:
        self.store_name = store_name
        self.vote = vote
        self.hangs = hangs
        self.seen: list[str] = []

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        self.seen.append("prepare")
        if self.hangs:
            await asyncio.Event().wait()
        assert all(op.get("store") == self.store_name for op in request.operations)
        return PrepareResult(store_name=self.store_name, vote=self.vote, reason=None)

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        self.seen.append("commit")
        return CommitResult(store_name=self.store_name, status="SUCCESS")

    async def abort_transaction(self, transaction_id: str) -> AbortResult:
        self.seen.append("abort")
        return AbortResult(store_name=self.store_name, status="SUCCESS")


class Bus:
    def __init__(self) -> None:
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def publish_event(self, event: dict[str, Any]) -> None:
        self.events.put_nowait(event)


class BrokenBus:
    async def publish_event(self, event: dict[str, Any]) -> None:
        raise ConnectionError("the bus is down")


class Metrics:
    def __init__(self) -> None:
        self.counted: list[tuple[str, dict[str, str]]] = []
        self.measured: list[tuple[str, float]] = []

    def increment_counter(self, name: str, labels: dict[str, str] | None = None) -> None:
        self.counted.append((name, labels or {}))

    def record_histogram(self, name: str, value: float) -> None:
        self.measured.append((name, value))


def make_request(coordination_id: str, stores: list[str]) -> CoordinationRequest:
    return CoordinationRequest(
        coordination_id=coordination_id,
        coordination_type=CoordinationType.TWO_PHASE_COMMIT,
        participating_stores=stores,
        operations=[{"store": name, "type": "write", "data": {"n": 1}} for name in stores],
        timeout_seconds=300,
        consistency_level="strong",
        metadata={"source": "memory"},
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Run a scenario with the default journal, which lies in the working directory."""
    monkeypatch.chdir(tmp_path)
    return asyncio.run


def test_a_transaction_commits_and_events_and_metrics_say_so(run: Callable[[Any], None]) -> None:
    async def scenario() -> None:
        bus, metrics = Bus(), Metrics()
        stores: dict[str, Any] = {"graph": Store("graph"), "vector": Store("vector")}
        service = CoordinationService(stores, None, None, bus, metrics)  # type: ignore[arg-type]
        result = await service.coordinate_transaction(make_request("t1", ["graph", "vector"]))
        assert result.success is True
        assert result.final_state.value == "committed"
        assert result.error_message is None
        assert isinstance(result.execution_duration_ms, int)
        assert (result.operations_completed, result.operations_failed) == (2, 0)
        assert stores["graph"].seen == stores["vector"].seen == ["prepare", "commit"]

        started = await asyncio.wait_for(bus.events.get(), 10)
        completed = await asyncio.wait_for(bus.events.get(), 10)
        assert set(started) == {
            "type",
            "coordination_id",
            "coordination_type",
            "participating_stores",
            "started_at",
        }
        assert started["coordination_type"] == "two_phase_commit"
        assert set(completed) == {
            "type",
            "coordination_id",
            "success",
            "final_state",
            "execution_duration_ms",
        }
        await service.close()
        assert ("coordination_transactions_started_total", {"type": "two_phase_commit"}) in (
            metrics.counted
        )
        assert ("coordination_transactions_completed_total", {"success": "True"}) in (
            metrics.counted
        )
        assert [name for name, _ in metrics.measured] == [
            "coordination_transaction_duration_seconds"
        ]

    run(scenario())


def test_a_vote_against_it_aborts_and_tells_every_store(run: Callable[[Any], None]) -> None:
    async def scenario() -> None:
        stores: dict[str, Any] = {"graph": Store("graph"), "vector": Store("vector", "ABORT")}
        service = CoordinationService(stores)
        result = await service.coordinate_transaction(make_request("t1", ["graph", "vector"]))
        assert (result.success, result.final_state) == (False, TransactionState.ABORTED)
        assert (result.operations_completed, result.operations_failed) == (0, 2)
        assert "abort" in stores["graph"].seen and "commit" not in stores["graph"].seen
        # Fact 9: the status is kept after the end.
        status = await service.get_coordination_status("t1")
        assert status is not None and status.final_state is TransactionState.ABORTED
        assert await service.list_active_coordinations() == []
        await service.close()

    run(scenario())


def test_fact_4_a_bus_that_is_down_neither_raises_nor_changes_the_answer(
    run: Callable[[Any], None],
) -> None:
    async def scenario() -> None:
        stores: dict[str, Any] = {"graph": Store("graph")}
        service = CoordinationService(stores, None, None, BrokenBus(), Metrics())  # type: ignore[arg-type]
        assert (await service.coordinate_transaction(make_request("t1", ["graph"]))).success
        await service.close()

    run(scenario())


def test_facts_5_to_7_hung_stores_cost_one_timeout_and_are_told_to_roll_back(
    run: Callable[[Any], None],
) -> None:
    async def scenario() -> None:
        stores: dict[str, Any] = {f"s{n}": Store(f"s{n}", hangs=n > 0) for n in range(5)}
        service = CoordinationService(stores)
        request = make_request("t1", list(stores))
        request.timeout_seconds = 1
        began = asyncio.get_running_loop().time()
        result = await service.coordinate_transaction(request)
        took = asyncio.get_running_loop().time() - began
        assert result.success is False
        assert result.final_state in (TransactionState.ABORTED, TransactionState.ABORTING)
        # Four timeouts in a row would be four seconds.
        assert took < 3
        await service.wait_for("t1", timeout=30)
        assert all(store.seen[0] == "prepare" for store in stores.values())
        assert all("abort" in store.seen for store in stores.values())
        await service.close()

    run(scenario())
