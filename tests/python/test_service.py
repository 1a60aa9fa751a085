"""The service through its public face, with real stores and a real journal."""

from __future__ import annotations

import asyncio
import contextvars
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger, request
from unanimity import (
    CommitResult,
    CoordinationService,
    InvalidRequest,
    IStorageStore,
    Outcome,
    PrepareRequest,
    PrepareResult,
    ServiceClosed,
    ServiceElsewhere,
    TransactionAborted,
    TransactionState,
)
from unanimity.stores import FileStore, MemoryStore, SqliteStore

Make = Callable[..., CoordinationService]
Ledgers = dict[str, Ledger]


def test_every_store_changes_and_the_result_says_so(make_service: Make, ledgers: Ledgers) -> None:
    async def scenario() -> None:
        async with make_service(ledgers) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert (result.success, result.final_state) == (True, TransactionState.COMMITTED)
            assert (result.outcome, result.error_message) == (Outcome.COMMITTED, None)
            assert (result.operations_completed, result.operations_failed) == (2, 0)
            assert result.participating_stores == ["left", "right"]
            assert result.raise_for_state() is result

    asyncio.run(scenario())
    assert ledgers["left"].values == ledgers["right"].values == {"k": 1}


def test_one_refusal_leaves_no_store_changed(make_service: Make, ledgers: Ledgers) -> None:
    ledgers["right"].answer = PrepareResult("right", "ABORT", "no room")

    async def scenario() -> None:
        async with make_service(ledgers) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert result.outcome is Outcome.ABORTED
            assert "right" in str(result.error_message) and "no room" in str(result.error_message)
            ended = await service.wait_for("t1", timeout=10)
            assert ended.final_state is TransactionState.ABORTED

    asyncio.run(scenario())
    assert (ledgers["left"].values, ledgers["left"].staged) == ({}, {})
    assert ledgers["left"].asked("commit") == 0


def test_a_store_gets_its_own_operations_as_the_caller_gave_them(
    make_service: Make, ledgers: Ledgers
) -> None:
    operation = {"store": "left", "type": "put", "key": "a", "value": b"\x00\xff", "extra": (1, 2)}
    other = {"store": "right", "type": "put", "key": "b", "value": {"deep": [None, 1.5, True]}}

    async def scenario() -> None:
        async with make_service(ledgers) as service:
            changed = request("t1", operations=[operation, other])
            (await service.coordinate_transaction(changed)).raise_for_state()

    asyncio.run(scenario())
    (asked,) = ledgers["left"].requests
    assert isinstance(asked, PrepareRequest)
    assert (asked.transaction_id, asked.operations) == ("t1", [operation])
    assert 0 < asked.timeout_seconds <= 30


def test_the_three_native_stores_change_together(make_service: Make, tmp_path: Path) -> None:
    async def scenario() -> None:
        cache, blobs = MemoryStore("cache"), FileStore(tmp_path / "blobs")
        rows = SqliteStore(tmp_path / "rows.db")
        async with make_service({"cache": cache, "blobs": blobs, "rows": rows}) as service:
            async with service.transaction() as tx:
                tx.add("rows", "execute", statement="CREATE TABLE t (k TEXT, n INTEGER)")
            async with service.transaction() as tx:
                tx.add("cache", "put", key="a", value=[1, 2])
                tx.add("blobs", "put", key="dir/a.txt", value="grüße")
                tx.add("blobs", "put", key="a.bin", value=b"\x00\x01")
                tx.add(
                    "rows",
                    "execute",
                    statement="INSERT INTO t VALUES (?, ?)",
                    parameters=["a", 7],
                    expect_rows=1,
                )
            assert await cache.get("a") == [1, 2]
            assert await blobs.get_text("dir/a.txt") == "grüße"
            assert await blobs.get("a.bin") == b"\x00\x01"
            assert await blobs.get("missing") is None
            found = await rows.fetch("SELECT k, n FROM t WHERE n > ?", [5])
            assert found == [{"k": "a", "n": 7}]
            for store in (cache, blobs, rows):
                assert await store.list_prepared_transactions() == []

    asyncio.run(scenario())


def test_a_failed_check_in_one_native_store_changes_none(
    make_service: Make, tmp_path: Path
) -> None:
    async def scenario() -> None:
        cache, blobs = MemoryStore("cache"), FileStore(tmp_path / "blobs")
        async with make_service({"cache": cache, "blobs": blobs}) as service:
            with pytest.raises(TransactionAborted, match="cache") as caught:
                async with service.transaction(coordination_id="t1") as tx:
                    tx.add("blobs", "put", key="a", value="x")
                    tx.add("cache", "check", key="a", exists=True)
            assert caught.value.coordination_id == "t1"
            assert caught.value.result is tx.result
            assert await blobs.get("a") is None

    asyncio.run(scenario())


def test_the_same_id_with_the_same_request_is_done_once(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        async with make_service(ledgers) as service:
            together = await asyncio.gather(
                *(service.coordinate_transaction(request("t1")) for _ in range(5))
            )
            later = await service.coordinate_transaction(request("t1", timeout_seconds=7))
            assert {answer.outcome for answer in [*together, later]} == {Outcome.COMMITTED}
            assert service.active_coordinations == {}

    asyncio.run(scenario())
    assert ledgers["left"].asked("prepare") == ledgers["left"].asked("commit") == 1


def test_the_same_id_with_another_request_is_refused_and_changes_nothing(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        async with make_service(ledgers) as service:
            await service.coordinate_transaction(request("t1"))
            other = await service.coordinate_transaction(request("t1", metadata={"n": 2}))
            assert (other.outcome, other.code) == (Outcome.REFUSED, "request.conflict")
            assert "t1" in str(other.error_message)
            with pytest.raises(InvalidRequest):
                other.raise_for_state()

    asyncio.run(scenario())
    assert ledgers["left"].asked("prepare") == 1


def test_a_finished_coordination_is_remembered_by_the_next_service(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def first() -> None:
        async with make_service(ledgers) as service:
            await service.coordinate_transaction(request("t1"))

    async def second() -> None:
        async with make_service(ledgers) as service:
            status = await service.get_coordination_status("t1")
            assert status is not None and status.outcome is Outcome.COMMITTED
            again = await service.coordinate_transaction(request("t1"))
            assert again.outcome is Outcome.COMMITTED

    asyncio.run(first())
    asyncio.run(second())
    assert ledgers["left"].asked("prepare") == 1


def test_an_unknown_id_has_no_status_and_no_record(make_service: Make) -> None:
    async def scenario() -> None:
        async with make_service({}) as service:
            assert await service.get_coordination_status("none") is None
            assert await service.describe("none") is None
            assert await service.abort_coordination("none", "no reason") is False
            with pytest.raises(InvalidRequest, match="none"):
                await service.wait_for("none")

    asyncio.run(scenario())


def test_history_and_describe_tell_what_happened(make_service: Make, ledgers: Ledgers) -> None:
    async def scenario() -> None:
        async with make_service(ledgers) as service:
            began = datetime.now(timezone.utc)
            await service.coordinate_transaction(request("t1", metadata={"who": "me"}))
            ledgers["left"].answer = PrepareResult("left", "ABORT", "no")
            await service.coordinate_transaction(request("t2"))
            await service.wait_for("t2", timeout=10)

            assert [r.coordination_id for r in await service.history()] == ["t2", "t1"]
            assert len(await service.history(state=TransactionState.ABORTED)) == 1
            assert len(await service.history(state=["aborted", "committed"])) == 2
            assert len(await service.history(store="nowhere")) == 0
            assert len(await service.history(limit=1)) == 1
            assert len(await service.history(since=began)) == 2

            record = await service.describe("t1")
            assert record is not None
            assert (record.state, record.decision) == (TransactionState.COMMITTED, "COMMIT")
            assert record.metadata == {"who": "me"}
            assert [o["operation_id"] for o in record.operations] == ["t1:0", "t1:1"]
            assert [(s.store, s.vote) for s in record.stores] == [
                ("left", "COMMIT"),
                ("right", "COMMIT"),
            ]
            assert began <= record.created_at <= datetime.now(timezone.utc)
            told = [(entry.store, entry.what) for entry in record.timeline()]
            assert told[0] == (None, "began") and told[-1] == (None, "ended: committed")
            assert ("left", "acknowledged commit") in told

    asyncio.run(scenario())


def test_a_transaction_gathers_and_sends_on_leaving(make_service: Make, ledgers: Ledgers) -> None:
    async def scenario() -> None:
        async with make_service(ledgers) as service:
            async with service.transaction(metadata={"why": "test"}) as tx:
                assert tx.add("left", "put", key="a", value=1) == f"{tx.coordination_id}:0"
                assert tx.add("right", "put", key="b", value=2, operation_id="mine") == "mine"
                assert ledgers["left"].calls == []
            assert tx.result is not None and tx.result.success
            record = await service.describe(tx.coordination_id)
            assert record is not None and record.metadata == {"why": "test"}
            assert [o["operation_id"] for o in record.operations][1] == "mine"
            with pytest.raises(RuntimeError, match="has ended"):
                tx.add("left", "put", key="c", value=3)

    asyncio.run(scenario())
    assert (ledgers["left"].values, ledgers["right"].values) == ({"a": 1}, {"b": 2})


def test_a_block_that_raises_sends_nothing(make_service: Make, ledgers: Ledgers) -> None:
    async def scenario() -> None:
        async with make_service(ledgers) as service:
            with pytest.raises(KeyError):
                async with service.transaction(coordination_id="t1") as tx:
                    tx.add("left", "put", key="a", value=1)
                    raise KeyError("mine")
            assert tx.result is None
            assert await service.get_coordination_status("t1") is None
            async with service.transaction() as empty:
                pass
            assert empty.result is None

    asyncio.run(scenario())
    assert ledgers["left"].calls == []


def test_minted_ids_are_in_order_of_time(make_service: Make) -> None:
    service = make_service({})
    ids = [service.transaction().coordination_id for _ in range(1000)]
    assert ids == sorted(set(ids))


def test_a_cancelled_await_leaves_the_coordination_running(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        gate = ledgers["left"].gate = asyncio.Event()
        async with make_service(ledgers) as service:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(service.coordinate_transaction(request("t1")), 0.2)
            assert await service.list_active_coordinations() == ["t1"]
            gate.set()
            assert (await service.wait_for("t1", timeout=10)).outcome is Outcome.COMMITTED

    asyncio.run(scenario())
    assert ledgers["left"].values == {"k": 1}


def test_an_abort_before_the_decision_wins_and_after_it_does_not(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        ledgers["left"].gate = asyncio.Event()
        async with make_service(ledgers) as service:
            waiting = asyncio.create_task(service.coordinate_transaction(request("t1")))
            while not ledgers["left"].calls:
                await asyncio.sleep(0)
            assert set(service.active_coordinations) == {"t1"}
            assert await service.abort_coordination("t1", "changed my mind") is True
            ledgers["left"].gate.set()
            result = await waiting
            assert result.outcome is Outcome.ABORTED
            assert "changed my mind" in str(result.error_message)
            await service.wait_for("t1", timeout=10)
            assert ledgers["left"].staged == {}

            await service.coordinate_transaction(request("t2"))
            assert await service.abort_coordination("t2", "too late") is False

    asyncio.run(scenario())


def test_a_silent_store_after_the_decision_is_told_until_it_answers(
    make_service: Make, ledgers: Ledgers
) -> None:
    ledgers["right"].commit_answer = OSError("gone fishing")

    async def scenario() -> None:
        config = {"timeouts": {"commit_phase_timeout_seconds": 0.3}}
        async with make_service(ledgers, config=config) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert (result.success, result.final_state) == (True, TransactionState.COMMITTING)
            assert "right" in str(result.error_message)
            assert "gone fishing" in str(result.error_message)
            ledgers["right"].commit_answer = None
            ended = await service.wait_for("t1", timeout=20)
            assert ended.final_state is TransactionState.COMMITTED

    asyncio.run(scenario())
    assert ledgers["right"].values == {"k": 1}
    assert ledgers["right"].asked("commit") > 1


def test_a_contrary_final_word_waits_for_an_operator(make_service: Make, ledgers: Ledgers) -> None:
    ledgers["right"].commit_answer = CommitResult("right", "FAILED", "disk on fire")

    async def scenario() -> None:
        async with make_service(ledgers) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert (result.outcome, result.final_state) == (
                Outcome.HEURISTIC,
                TransactionState.FAILED,
            )
            assert "disk on fire" in str(result.error_message)
            resolved = await service.resolve("t1", "commit", "repaired by hand")
            assert resolved.coordination_id == "t1"
            with pytest.raises(InvalidRequest, match="maybe"):
                await service.resolve("t1", "maybe", "?")

    asyncio.run(scenario())


def test_stores_run_in_the_callers_context(make_service: Make, ledgers: Ledgers) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")
    seen = []

    class Curious(Ledger):
        async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
            seen.append(user.get())
            await asyncio.sleep(0)
            seen.append(user.get())
            return await super().prepare_transaction(request)

    async def scenario() -> None:
        async with make_service({"left": Curious("left")}) as service:
            user.set("ann")
            await service.coordinate_transaction(request("t1", "left"))

    asyncio.run(scenario())
    assert seen == ["ann", "ann"]


def test_plain_methods_and_the_base_class_serve_as_well(make_service: Make) -> None:
    class Plain:
        def __init__(self) -> None:
            self.done: list[str] = []

        def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
            return PrepareResult("plain", "COMMIT")

        def commit_transaction(self, transaction_id: str) -> CommitResult:
            self.done.append(transaction_id)
            return CommitResult("plain", "SUCCESS")

        def abort_transaction(self, transaction_id: str) -> None:
            raise AssertionError("nothing is aborted here")

    class Reader(IStorageStore):
        store_name = "reader"

        async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
            return PrepareResult("reader", "READ_ONLY")

        async def commit_transaction(self, transaction_id: str) -> CommitResult:
            raise AssertionError("a reader has no second phase")

        async def abort_transaction(self, transaction_id: str) -> Any:
            raise AssertionError("a reader has no second phase")

    plain = Plain()

    async def scenario() -> None:
        async with make_service({"plain": plain, "reader": Reader()}) as service:
            result = await service.coordinate_transaction(request("t1", "plain", "reader"))
            assert result.outcome is Outcome.COMMITTED

    asyncio.run(scenario())
    assert plain.done == ["t1"]


def test_a_bus_hears_of_it_and_a_broken_bus_changes_nothing(
    make_service: Make, ledgers: Ledgers
) -> None:
    class Bus:
        def __init__(self, breaks: bool) -> None:
            self.breaks = breaks
            self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def publish_event(self, event: dict[str, Any]) -> None:
            self.events.put_nowait(event)
            if self.breaks:
                raise ConnectionError("no bus today")

    async def scenario(breaks: bool) -> None:
        bus = Bus(breaks)
        async with make_service(ledgers, event_bus=bus, journal="memory:") as service:
            assert (await service.coordinate_transaction(request("t1"))).success
            first = await asyncio.wait_for(bus.events.get(), 10)
            assert (first["type"], first["coordination_id"]) == ("COORDINATION_STARTED", "t1")
            assert first["participating_stores"] == ["left", "right"]
            second = await asyncio.wait_for(bus.events.get(), 10)
            assert (second["type"], second["success"]) == ("COORDINATION_COMPLETED", True)
            assert second["final_state"] == "committed"

    asyncio.run(scenario(breaks=False))
    asyncio.run(scenario(breaks=True))


def test_a_consensus_service_is_asked_for_every_decision(
    make_service: Make, ledgers: Ledgers
) -> None:
    class Agreeing:
        def __init__(self) -> None:
            self.proposed: list[tuple[str, str]] = []

        async def propose_coordination_decision(
            self, coordination_id: str, decision: str, evidence: dict[str, Any]
        ) -> bool:
            self.proposed.append((coordination_id, decision))
            return True

        async def get_consensus_status(self, coordination_id: str) -> dict[str, Any] | None:
            return None

    consensus = Agreeing()

    async def scenario() -> None:
        async with make_service(ledgers, consensus_service=consensus) as service:
            assert (await service.coordinate_transaction(request("t1"))).success
            ledgers["left"].answer = PrepareResult("left", "ABORT")
            assert not (await service.coordinate_transaction(request("t2"))).success
            await service.wait_for("t2", timeout=10)

    asyncio.run(scenario())
    assert consensus.proposed == [("t1", "COMMIT"), ("t2", "ABORT")]


def test_an_argument_of_another_type_is_a_type_error(make_service: Make) -> None:
    async def scenario() -> None:
        async with make_service({}) as service:
            with pytest.raises(TypeError, match="CoordinationRequest, not a dict"):
                await service.coordinate_transaction({"coordination_id": "t1"})  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="coordination_id is a int"):
                await service.get_coordination_status(7)  # type: ignore[arg-type]

    asyncio.run(scenario())


def test_a_closed_service_says_so_and_closing_again_is_fine(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        service = make_service(ledgers)
        await service.coordinate_transaction(request("t1"))
        await service.close()
        await service.close(timeout=1)
        with pytest.raises(ServiceClosed):
            await service.coordinate_transaction(request("t2"))
        with pytest.raises(ServiceClosed):
            await service.history()
        unused = make_service(ledgers)
        await unused.close()
        with pytest.raises(ServiceClosed):
            await unused.start()

    asyncio.run(scenario())


def test_first_uses_at_once_start_it_once(make_service: Make, ledgers: Ledgers) -> None:
    async def scenario() -> None:
        service = make_service(ledgers)
        ids = [f"t{n}" for n in range(20)]
        answers = await asyncio.gather(
            *(service.coordinate_transaction(request(each)) for each in ids)
        )
        assert [answer.coordination_id for answer in answers] == ids
        assert all(answer.success for answer in answers)
        await service.close()

    asyncio.run(scenario())


def test_use_from_another_loop_names_both(make_service: Make, ledgers: Ledgers) -> None:
    service = make_service(ledgers)

    async def first() -> None:
        await service.coordinate_transaction(request("t1"))

    async def second() -> None:
        with pytest.raises(ServiceElsewhere, match=r"belongs to the event loop .* and this is"):
            await service.coordinate_transaction(request("t2"))

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(first())
        asyncio.run(second())
        loop.run_until_complete(service.close())
    finally:
        loop.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_use_in_a_forked_child_names_both_processes(make_service: Make, ledgers: Ledgers) -> None:
    service = make_service(ledgers)
    parent = os.getpid()

    async def in_child() -> str:
        try:
            await service.coordinate_transaction(request("t2"))
        except ServiceElsewhere as error:
            return str(error)
        return "no error"

    async def scenario() -> int:
        await service.coordinate_transaction(request("t1"))
        child = os.fork()
        if child == 0:
            code = 1
            # A child that hangs is a failure, not a test that never ends.
            signal.alarm(30)
            try:
                loop = asyncio.new_event_loop()
                # The parent's loop is marked as running in this thread; the child starts anew.
                asyncio._set_running_loop(None)
                told = loop.run_until_complete(in_child())
                code = 0 if str(parent) in told and str(os.getpid()) in told else 2
            finally:
                os._exit(code)
        await service.close()
        return child

    child = asyncio.run(scenario())
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_what_a_store_raised_is_the_cause_with_its_traceback(
    make_service: Make, ledgers: Ledgers
) -> None:
    ledgers["left"].answer = LookupError("no such drawer")

    async def scenario() -> None:
        async with make_service(ledgers) as service:
            with pytest.raises(TransactionAborted, match="no such drawer") as caught:
                async with service.transaction() as tx:
                    tx.add("left", "put", key="a", value=1)
            cause = caught.value.__cause__
            assert cause is ledgers["left"].answer
            names = [frame.name for frame in traceback.extract_tb(cause.__traceback__)]
            assert names[-1] == "prepare_transaction"
            assert pickle.loads(pickle.dumps(tx.result)) == tx.result

    asyncio.run(scenario())
