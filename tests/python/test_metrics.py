"""What a service counts and measures, read as a Prometheus server reads it."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from ledger import Ledger, request
from metric_readings import Reading, reading_when
from unanimity import (
    CommitResult,
    CoordinationService,
    CoordinationType,
    LocalLockManager,
    LockType,
    Outcome,
    Participant,
    Permanent,
    PrepareResult,
    PrometheusMetrics,
    TransactionState,
    __version__,
)
from unanimity.stores import MemoryStore

Make = Callable[..., CoordinationService]
Ledgers = dict[str, Ledger]

SAGA = CoordinationType.SAGA_ORCHESTRATION
EVENTUAL = CoordinationType.EVENTUAL_CONSISTENCY


def test_commits_aborts_and_refusals_are_counted(make_service: Make, ledgers: Ledgers) -> None:
    async def scenario() -> Reading:
        async with make_service(ledgers) as service:
            for number in range(3):
                assert (await service.coordinate_transaction(request(f"good{number}"))).success
            ledgers["left"].answer = PrepareResult("left", "ABORT", "no")
            assert not (await service.coordinate_transaction(request("bad"))).success
            refused = await service.coordinate_transaction(request("odd", "nowhere"))
            assert refused.outcome is Outcome.REFUSED
            count = "coordination_transaction_duration_seconds_count"
            return await reading_when(service.metrics, lambda it: it.value(count) == 4)

    reading = asyncio.run(scenario())
    value = reading.value
    started = "coordination_transactions_started_total"
    assert value(started, type="two_phase_commit") == 4
    assert value(started, type="saga_orchestration") == 0, "a type that never came is there"
    assert value("coordination_transactions_completed_total", success="True") == 3
    assert value("coordination_transactions_completed_total", success="False") == 1
    aborted = "coordination_transactions_aborted_total"
    assert reading.labels(aborted) == [{"code": "transaction.aborted.vote"}]
    assert value(aborted, code="transaction.aborted.vote") == 1
    refused = "coordination_transactions_refused_total"
    assert [value(refused, **labels) for labels in reading.labels(refused)] == [1]
    seconds = value("coordination_transaction_duration_seconds_sum")
    assert seconds is not None and seconds > 0, "also where it is less than a millisecond"
    phases = "coordination_phase_duration_seconds_count"
    assert value(phases, phase="prepare", store="left") == 4
    assert value(phases, phase="prepare", store="right") == 4
    assert value(phases, phase="commit", store="left") == 3
    failures = "coordination_store_failures_total"
    assert reading.labels(failures) == [{"phase": "prepare", "store": "left"}]
    assert value("coordination_record_wait_seconds_count", record="decision") == 4
    assert value("coordination_build_info", version=__version__) == 1


def test_the_journal_and_the_engine_are_measured(make_service: Make, ledgers: Ledgers) -> None:
    async def scenario() -> Reading:
        async with make_service(ledgers) as service:
            await asyncio.gather(
                *(service.coordinate_transaction(request(f"t{number}")) for number in range(40))
            )
            written = "coordination_journal_records_total"
            return await reading_when(service.metrics, lambda it: (it.value(written) or 0) >= 80)

    reading = asyncio.run(scenario())
    value = reading.value
    batches = value("coordination_journal_batch_records_count")
    records = value("coordination_journal_records_total")
    syncs = value("coordination_journal_sync_seconds_count")
    assert batches and records and syncs
    assert value("coordination_journal_batch_records_sum") == records
    assert batches < records, "they were written in groups"
    assert value("coordination_journal_writable") == 1
    assert value("coordination_engine_running") == 1
    for name in ("running", "queued", "in_doubt", "in_doubt_age_seconds", "parked", "delivering"):
        assert value(f"coordination_transactions_{name}") == 0, name
    backlog = value("coordination_journal_backlog_records")
    assert backlog is not None and 0 <= backlog <= records


def test_sagas_are_measured_step_by_step(make_service: Make) -> None:
    store = Participant("shop")

    @store.operation("reserve")
    async def reserve(request: Any) -> None:
        pass

    @reserve.compensation
    async def give_back(request: Any) -> None:
        pass

    @store.operation("charge")
    async def charge(request: Any) -> None:
        raise Permanent("no money")

    steps = [
        {
            "store": "shop",
            "type": "reserve",
            "operation_id": "r",
            "compensation": {"type": "reserve"},
        },
        {"store": "shop", "type": "charge", "operation_id": "c", "compensation": None},
    ]

    async def scenario() -> Reading:
        async with make_service({"shop": store}) as service:
            result = await service.coordinate_transaction(
                request("s1", "shop", coordination_type=SAGA, operations=steps)
            )
            assert result.outcome is Outcome.ABORTED, result.error_message
            done = "coordination_transactions_completed_total"
            return await reading_when(service.metrics, lambda it: it.value(done, success="False"))

    reading = asyncio.run(scenario())
    count = "coordination_phase_duration_seconds_count"
    assert reading.value(count, phase="execute", store="shop") == 2
    assert reading.value(count, phase="compensate", store="shop") == 1
    assert reading.value("coordination_store_failures_total", phase="execute", store="shop") == 1
    assert reading.value("coordination_transactions_started_total", type=SAGA.value) == 1


def test_doubt_rises_while_a_store_is_away_and_falls_when_it_is_back(
    make_service: Make, ledgers: Ledgers
) -> None:
    config = {"timeouts": {"commit_phase_timeout_seconds": 0.2}}
    doubt = "coordination_transactions_in_doubt"
    age = "coordination_transactions_in_doubt_age_seconds"

    async def scenario() -> None:
        async with make_service(ledgers, config=config) as service:
            ledgers["right"].commit_answer = ConnectionError("away")
            result = await service.coordinate_transaction(request("t1"))
            assert result.final_state is TransactionState.COMMITTING
            reading = await reading_when(service.metrics, lambda it: it.value(doubt) == 1)
            first = reading.value(age)
            assert first is not None and first > 0
            await reading_when(service.metrics, lambda it: (it.value(age) or 0) > first)
            failed = "coordination_store_failures_total"
            assert reading.value(failed, phase="commit", store="right")
            ledgers["right"].commit_answer = None
            reading = await reading_when(service.metrics, lambda it: it.value(doubt) == 0)
            assert reading.value(age) == 0

    asyncio.run(scenario())


def test_what_waits_for_an_operator_is_counted_until_he_has_seen_to_it(
    make_service: Make, ledgers: Ledgers
) -> None:
    flaky = Participant("shop")
    is_broken = True

    @flaky.operation("send")
    async def send(request: Any) -> None:
        if is_broken:
            raise Permanent("broken")

    parked = "coordination_transactions_parked"
    operations = "coordination_parked_operations"

    async def scenario() -> None:
        nonlocal is_broken
        async with make_service({**ledgers, "shop": flaky}) as service:
            ledgers["right"].commit_answer = CommitResult("right", "FAILED", "on fire")
            torn = await service.coordinate_transaction(request("torn"))
            assert torn.outcome is Outcome.HEURISTIC
            operation = {"store": "shop", "type": "send", "operation_id": "send1"}
            await service.coordinate_transaction(
                request("e1", "shop", coordination_type=EVENTUAL, operations=[operation])
            )
            reading = await reading_when(service.metrics, lambda it: it.value(parked) == 2)
            assert reading.value(operations) == 1
            assert reading.value("coordination_transactions_failed_total") == 2
            assert reading.value("coordination_transactions_in_doubt") == 0
            is_broken = False
            assert await service.redrive("send1")
            await service.resolve("torn", "commit", "repaired by hand")
            reading = await reading_when(service.metrics, lambda it: it.value(parked) == 0)
            assert reading.value(operations) == 0

    asyncio.run(scenario())


def test_waits_for_locks_are_measured(make_service: Make, ledgers: Ledgers) -> None:
    waiting, held = "coordination_lock_waiting", "coordination_locks_held"
    waits = "coordination_lock_wait_seconds_count"

    async def scenario() -> None:
        gate = ledgers["left"].gate = asyncio.Event()
        async with make_service(ledgers) as service:
            first, second = (
                asyncio.create_task(
                    service.coordinate_transaction(request(f"t{n}", consistency_level="strong"))
                )
                for n in (1, 2)
            )
            reading = await reading_when(service.metrics, lambda it: it.value(waiting) == 1)
            assert (reading.value(held) or 0) > 0
            assert reading.value(waits, result="granted") == 1
            gate.set()
            assert (await first).success and (await second).success
            reading = await reading_when(service.metrics, lambda it: it.value(held) == 0)
            assert reading.value(waiting) == 0
            assert reading.value(waits, result="granted") == 2

    asyncio.run(scenario())


def test_a_deadlock_is_counted_and_told_once(make_service: Make, ledgers: Ledgers) -> None:
    told: list[dict[str, Any]] = []

    class Alerting:
        """The original design's."""

        async def send_alert(
            self, severity: str, title: str, message: str, details: dict[str, Any]
        ) -> None:
            told.append({"severity": severity, "title": title, "details": details})

    async def scenario() -> None:
        async with (
            LocalLockManager() as manager,
            make_service(ledgers, lock_manager=manager, alerting_service=Alerting()) as service,
        ):
            await manager.acquire_lock("one", LockType.EXCLUSIVE, "old")
            await manager.acquire_lock("two", LockType.EXCLUSIVE, "young")
            waits = asyncio.create_task(manager.acquire_lock("two", LockType.EXCLUSIVE, "old"))
            while len(await manager.check_lock_status("two")) < 2:
                await asyncio.sleep(0.01)
            refused = await manager.acquire_lock("one", LockType.EXCLUSIVE, "young")
            assert refused.deadlock_cycle
            count = "coordination_deadlocks_detected_total"
            await reading_when(service.metrics, lambda it: it.value(count) == 1)
            await manager.release_all("young")
            await waits
            while not told:
                await asyncio.sleep(0.01)
        details = {"deadlock_cycle": refused.deadlock_cycle}
        assert told == [{"severity": "medium", "title": "Deadlock Detected", "details": details}]

    asyncio.run(scenario())


def test_who_waits_for_a_place_is_counted(make_service: Make, ledgers: Ledgers) -> None:
    config = {"performance": {"max_concurrent_coordinations": 2}}

    async def scenario() -> None:
        gate = ledgers["left"].gate = asyncio.Event()
        async with make_service(ledgers, config=config) as service:
            tasks = [
                asyncio.create_task(service.coordinate_transaction(request(f"t{number}")))
                for number in range(5)
            ]
            queued = "coordination_transactions_queued"
            reading = await reading_when(service.metrics, lambda it: it.value(queued) == 3)
            assert reading.value("coordination_transactions_running") == 2
            gate.set()
            assert all(result.success for result in await asyncio.gather(*tasks))
            await reading_when(service.metrics, lambda it: it.value(queued) == 0)

    asyncio.run(scenario())


def test_what_a_service_before_left_open_is_a_backlog(make_service: Make, ledgers: Ledgers) -> None:
    config = {"timeouts": {"commit_phase_timeout_seconds": 0.1}}

    async def leave() -> None:
        async with make_service(ledgers, config=config) as service:
            ledgers["right"].commit_answer = ConnectionError("away")
            result = await service.coordinate_transaction(request("t1"))
            assert result.final_state is TransactionState.COMMITTING
            await service.close(timeout=0.1)

    async def take_over() -> None:
        backlog = "coordination_recovery_backlog"
        async with make_service(ledgers) as service:
            reading = await reading_when(service.metrics, lambda it: it.value(backlog) == 1)
            assert reading.value("coordination_recovered_total") == 1
            ledgers["right"].commit_answer = None
            await reading_when(service.metrics, lambda it: it.value(backlog) == 0)

    asyncio.run(leave())
    asyncio.run(take_over())


def test_services_that_share_a_collector_are_added_and_stay_counted_when_they_close() -> None:
    metrics = PrometheusMetrics()
    done = "coordination_transactions_completed_total"

    async def work(count: int) -> None:
        stores = {"left": MemoryStore("left"), "right": MemoryStore("right")}
        async with CoordinationService(
            stores, metrics_collector=metrics, journal="memory:"
        ) as service:
            assert service.metrics is metrics
            for number in range(count):
                await service.coordinate_transaction(request(f"t{number}"))
            await reading_when(metrics, lambda it: (it.value(done, success="True") or 0) >= count)

    async def both() -> None:
        await asyncio.gather(work(3), work(4))

    asyncio.run(both())
    for _ in range(3):
        reading = Reading(metrics.render())
        assert reading.value(done, success="True") == 7
        assert reading.value("coordination_transactions_running") is None, "nobody is there"
    asyncio.run(work(2))
    assert Reading(metrics.render()).value(done, success="True") == 9


class Counter:
    """A collector as the original design has it."""

    def __init__(self, raises: bool = False) -> None:
        self.raises = raises
        self.told: list[tuple[str, Any]] = []

    def increment_counter(self, name: str, labels: dict[str, str] | None = None) -> None:
        self.told.append((name, labels))
        if self.raises:
            raise ZeroDivisionError("counters")

    def record_histogram(self, name: str, value: float) -> None:
        self.told.append((name, None))


def test_another_collector_is_told_and_a_collector_of_ours_may_watch_beside_it(
    make_service: Make, ledgers: Ledgers
) -> None:
    theirs, ours = Counter(), PrometheusMetrics()

    async def scenario() -> None:
        async with make_service(ledgers, metrics_collector=theirs) as service:
            ours.watch(service)
            ours.watch(service)
            assert service.metrics is theirs
            await service.coordinate_transaction(request("t1"))
            done = "coordination_transactions_completed_total"
            await reading_when(ours, lambda it: it.value(done, success="True") == 1)

    asyncio.run(scenario())
    assert [name for name, _ in theirs.told] == [
        "coordination_transactions_started_total",
        "coordination_transactions_completed_total",
        "coordination_transaction_duration_seconds",
    ]


def test_a_collector_that_raises_changes_nothing_and_is_logged_once(
    make_service: Make, ledgers: Ledgers, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = Counter(raises=True), PrometheusMetrics()

    async def scenario() -> None:
        async with make_service(ledgers, metrics_collector=theirs) as service:
            ours.watch(service)
            for number in range(5):
                assert (await service.coordinate_transaction(request(f"t{number}"))).success
            errors = "coordination_listener_errors_total"
            await reading_when(ours, lambda it: it.value(errors, listener="metrics") == 10)

    asyncio.run(scenario())
    assert len(theirs.told) == 15, "it is told the rest all the same"
    said = [record.getMessage() for record in caplog.records if "collector" in record.getMessage()]
    assert said == ["the metrics collector raised ZeroDivisionError: counters; this is said once"]


def test_a_subclass_with_methods_of_its_own_is_told(make_service: Make, ledgers: Ledgers) -> None:
    class Own(PrometheusMetrics):
        def increment_counter(self, name: str, *arguments: Any, **more: Any) -> None:
            super().increment_counter("own_" + name, *arguments, **more)

    own = Own()

    async def scenario() -> None:
        async with make_service(ledgers, metrics_collector=own) as service:
            await service.coordinate_transaction(request("t1"))
            done = "own_coordination_transactions_completed_total"
            reading = await reading_when(own, lambda it: it.value(done, success="True") == 1)
            assert reading.value("coordination_engine_running") is None

    asyncio.run(scenario())


def test_metrics_can_be_switched_off(make_service: Make, ledgers: Ledgers) -> None:
    config = {"monitoring": {"metrics_enabled": False}}
    ours = PrometheusMetrics()

    async def scenario() -> None:
        async with make_service(ledgers, config=config) as service:
            assert service.metrics is None
        async with make_service(ledgers, metrics_collector=ours, config=config) as service:
            await service.coordinate_transaction(request("t1"))

    asyncio.run(scenario())
    assert ours.render() == ""


def test_a_server_is_answered_by_a_loop_that_is_busy(make_service: Make, ledgers: Ledgers) -> None:
    def read(url: str) -> Reading:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return Reading(answer.read().decode())

    async def scenario() -> None:
        async with make_service(ledgers) as service:
            with service.metrics.serve(port=0) as server:
                await service.coordinate_transaction(request("t1"))
                # The loop's own thread waits here, and nobody else drives it.
                reading = read(server.url)
                assert reading.value("coordination_engine_running") == 1
                assert reading.value("coordination_transactions_running") == 0

    asyncio.run(scenario())


def test_every_metric_that_is_shown_is_in_the_table(make_service: Make, ledgers: Ledgers) -> None:
    from unanimity import _engine

    known = {name: (kind, text) for name, kind, text, *_ in _engine.metric_table()}

    async def scenario() -> Reading:
        async with make_service(ledgers) as service:
            await service.coordinate_transaction(request("t1", consistency_level="strong"))
            return Reading(service.metrics.render())

    reading = asyncio.run(scenario())
    for name, kind in reading.types.items():
        assert known[name] == (kind, reading.helps[name])
    # Of a service without a node, and with nothing to complain of.
    missing = {name for name in known if name not in reading.types}
    assert missing == {name for name in known if name.startswith("coordination_raft_")} | {
        "coordination_transactions_aborted_total",
        "coordination_transactions_refused_total",
        "coordination_store_failures_total",
        "coordination_consensus_duration_seconds",
    }


def test_a_node_of_a_cluster_tells_how_it_stands() -> None:
    from raft_cluster import free_ports
    from unanimity import RaftConsensusService

    alone = PrometheusMetrics()
    with pytest.raises(TypeError, match="service is a object; give a CoordinationService, or a"):
        alone.watch(object())  # type: ignore[arg-type]

    async def scenario() -> Reading:
        [port] = free_ports(1)
        node = RaftConsensusService("a", [f"a=127.0.0.1:{port}"], 200, 40, insecure=True)
        stores = {"left": MemoryStore("left"), "right": MemoryStore("right")}
        async with node, CoordinationService(stores, node) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert result.success
            leads = "coordination_raft_is_leader"
            alone.watch(node)
            assert set(Reading(alone.render()).types) == {
                f"coordination_raft_{name}"
                for name in (
                    *("has_quorum", "is_leader", "term", "applied_index", "lag_entries"),
                    "frames_dropped_total",
                )
            }
            return await reading_when(service.metrics, lambda it: it.value(leads) == 1)

    reading = asyncio.run(scenario())
    assert list(Reading(alone.render()).types) == ["coordination_raft_frames_dropped_total"]
    assert (reading.value("coordination_raft_term") or 0) >= 1
    assert (reading.value("coordination_raft_applied_index") or 0) >= 1
    assert reading.value("coordination_raft_has_quorum") == 1
    assert reading.value("coordination_raft_frames_dropped_total") == 0
    assert reading.value("coordination_raft_lag_entries") is not None
    assert (reading.value("coordination_journal_records_total") or 0) >= 1
