"""Sagas from end to end: participants and stores of users, the journal, recovery, operators."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger
from unanimity import (
    CoordinationRequest,
    CoordinationResult,
    CoordinationService,
    CoordinationType,
    InvalidRequest,
    OperationRequest,
    OperationResult,
    Outcome,
    Participant,
    Permanent,
    Saga,
    TransactionAborted,
    TransactionState,
)
from unanimity.stores import MemoryStore, SqliteStore

Make = Callable[..., CoordinationService]
caller: ContextVar[str] = ContextVar("caller", default="nobody")


class Shop(Participant):
    """A participant that remembers what it was asked, and does as it is told.

    An operation `do` gives its `gives`; before that it raises each of `raises` once. Its
    compensation does the same with `undo_raises`.
    """

    def __init__(self, name: str = "shop", can_undo: bool = True) -> None:
        super().__init__(name)
        self.calls: list[str] = []
        self.requests: list[OperationRequest] = []
        self.raises: dict[str, list[BaseException]] = {}
        self.undo_raises: dict[str, list[BaseException]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        operation = self.operation("do")(self.do)
        if can_undo:
            operation.compensation(self.undo)

    async def do(self, request: OperationRequest) -> Any:
        name = request.operation_id
        self.calls.append(name)
        self.requests.append(request)
        if name in self.gates:
            await self.gates[name].wait()
        if self.raises.get(name):
            raise self.raises[name].pop(0)
        return request.operation.get("gives")

    async def undo(self, request: OperationRequest) -> None:
        name = request.operation_id
        self.calls.append(f"undo {name}")
        self.requests.append(request)
        if self.undo_raises.get(name):
            raise self.undo_raises[name].pop(0)


def chain(coordination_id: str, *names: str, **fields: Any) -> Saga:
    """Steps of the shop, one after the other."""
    saga = Saga(coordination_id)
    for name in names:
        saga.step("shop", "do", fields, id=name)
    return saga


def run(make_service: Make, shop: Participant, saga: Saga, **more: Any) -> CoordinationResult:
    async def scenario() -> CoordinationResult:
        async with make_service({"shop": shop}) as service:
            return await saga.run(service, **more)

    return asyncio.run(scenario())


async def states(service: CoordinationService, saga: Saga) -> dict[str, str]:
    record = await service.describe(saga.coordination_id)
    assert record is not None
    return {step.operation_id: step.state for step in record.steps}


# ---- forward -------------------------------------------------------------------------------


def test_steps_are_done_in_order_and_see_what_earlier_ones_gave(make_service: Make) -> None:
    shop = Shop()
    saga = Saga("s1")
    saga.step("shop", "do", {"gives": {"n": [1, 2.5, "x", None, True]}}, id="a")
    saga.step("shop", "do", {"gives": b"\x00\xff"}, id="b")
    saga.step("shop", "do", id="c")

    async def scenario() -> None:
        async with make_service({"shop": shop}) as service:
            done = await saga.run(service)
            assert (done.success, done.outcome) == (True, Outcome.COMMITTED)
            assert done.final_state is TransactionState.COMMITTED
            assert (done.operations_completed, done.operations_failed) == (3, 0)
            assert done.raise_for_state() is done
            record = await service.describe("s1")
            assert record is not None
            assert [step.state for step in record.steps] == ["completed"] * 3
            assert record.steps[1].result == b"\x00\xff"
            assert "3 steps, committed" in saga.to_text(record)
            assert saga.to_svg(record).count('class="step done"') == 3

    asyncio.run(scenario())
    assert shop.calls == ["a", "b", "c"]
    first, second, third = shop.requests
    assert first.context == {}
    assert second.context == {"a": {"n": [1, 2.5, "x", None, True]}}
    assert third.context == {"a": {"n": [1, 2.5, "x", None, True]}, "b": b"\x00\xff"}
    assert (third.transaction_id, third.attempt) == ("s1", 1)
    assert third.timeout_seconds > 0


def test_the_operation_is_the_callers_own_dict(make_service: Make) -> None:
    shop = Shop()
    request = chain("s1", "a").request()

    async def scenario() -> None:
        async with make_service({"shop": shop}) as service:
            (await service.coordinate_transaction(request)).raise_for_state()

    asyncio.run(scenario())
    assert shop.requests[0].operation is request.operations[0]


def test_independent_steps_run_side_by_side_and_join(make_service: Make) -> None:
    shop = Participant("shop")
    met = asyncio.Event()
    calls: list[str] = []

    @shop.operation("wait")
    async def wait(request: OperationRequest) -> None:
        await met.wait()
        calls.append("wait")

    @shop.operation("come")
    async def come(request: OperationRequest) -> None:
        calls.append("come")
        met.set()

    @shop.operation("join")
    async def join(request: OperationRequest) -> None:
        calls.append("join")

    saga = Saga("s1")
    waiting = saga.step("shop", "wait", after=[], compensation=None)
    coming = saga.step("shop", "come", after=[], compensation=None)
    saga.step("shop", "join", after=[waiting, coming], compensation=None)
    assert run(make_service, shop, saga).success
    assert calls == ["come", "wait", "join"]


def test_functions_see_the_callers_context_whether_async_or_plain(make_service: Make) -> None:
    shop = Participant("shop")
    seen: list[str] = []

    @shop.operation("async")
    async def in_loop(request: OperationRequest) -> None:
        seen.append(f"async {caller.get()}")
        caller.set("a store")

    @shop.operation("plain")
    def in_thread(request: OperationRequest) -> None:
        seen.append(f"plain {caller.get()}")

    async def scenario() -> None:
        async with make_service({"shop": shop}) as service:
            caller.set("ann")
            saga = Saga("s1")
            saga.step("shop", "async", compensation=None)
            saga.step("shop", "plain", compensation=None)
            assert (await saga.run(service)).success
            assert caller.get() == "ann"

    asyncio.run(scenario())
    assert seen == ["async ann", "plain ann"]


# ---- tries ---------------------------------------------------------------------------------


def test_a_step_that_raises_is_tried_again(make_service: Make) -> None:
    shop = Shop()
    shop.raises["a"] = [OSError("gone"), ValueError("odd")]
    assert run(make_service, shop, chain("s1", "a", "b")).success
    assert shop.calls == ["a", "a", "a", "b"]
    assert [request.attempt for request in shop.requests] == [1, 2, 3, 1]


def test_when_the_tries_are_spent_what_was_done_or_may_have_been_is_undone(
    make_service: Make,
) -> None:
    shop = Shop()
    shop.raises["c"] = [ValueError("odd") for _ in range(2)]
    saga = Saga("s1")
    saga.step("shop", "do", {"gives": 7}, id="a")
    saga.step("shop", "do", {"gives": 8}, id="b")
    saga.step("shop", "do", id="c", max_retries=1)
    saga.step("shop", "do", id="d")

    async def scenario() -> None:
        async with make_service({"shop": shop}) as service:
            ended = await saga.run(service)
            assert (ended.outcome, ended.final_state) == (Outcome.ABORTED, TransactionState.ABORTED)
            assert ended.code == "transaction.aborted.step"
            assert "'c'" in str(ended.error_message)
            assert "store 'shop': execute_operation() raised ValueError: odd" in str(
                ended.error_message
            )
            with pytest.raises(TransactionAborted) as caught:
                ended.raise_for_state()
            cause = caught.value.__cause__
            assert isinstance(cause, ValueError)
            assert traceback.extract_tb(cause.__traceback__)[-1].name == "do"
            told = await states(service, saga)
            assert told == {
                "a": "compensated", "b": "compensated", "c": "compensated", "d": "pending"
            }  # fmt: skip

    asyncio.run(scenario())
    assert shop.calls == ["a", "b", "c", "c", "undo c", "undo b", "undo a"]


def test_a_compensation_sees_its_own_result_and_the_earlier_ones(make_service: Make) -> None:
    shop = Shop()
    shop.raises["c"] = [Permanent("no")]
    saga = Saga("s1")
    saga.step("shop", "do", {"gives": 7}, id="a")
    saga.step("shop", "do", {"gives": 8}, id="b")
    saga.step("shop", "do", id="c")
    assert run(make_service, shop, saga).outcome is Outcome.ABORTED
    undo_b, undo_a = shop.requests[3:]
    assert (undo_b.operation_id, undo_b.context) == ("b", {"a": 7, "b": 8})
    assert (undo_a.operation_id, undo_a.context) == ("a", {"a": 7})


def test_permanent_is_neither_tried_again_nor_undone(make_service: Make) -> None:
    shop = Shop()
    shop.raises["b"] = [Permanent("the card is closed")]
    ended = run(make_service, shop, chain("s1", "a", "b"))
    assert ended.outcome is Outcome.ABORTED
    assert "the card is closed" in str(ended.error_message)
    assert shop.calls == ["a", "b", "undo a"]


def test_an_answer_of_failed_is_tried_again_if_it_says_so(make_service: Make) -> None:
    shop = Shop()
    answers = [
        OperationResult("shop", "FAILED", error_message="busy"),
        OperationResult("shop", "SUCCESS", 5),
        OperationResult("shop", "FAILED", error_message="closed", retryable=False),
    ]
    shop.operation("answer")(lambda request: answers.pop(0))
    saga = Saga("s1")
    saga.step("shop", "answer", id="a", compensation=None)
    saga.step("shop", "answer", id="b", compensation=None)
    ended = run(make_service, shop, saga)
    assert ended.outcome is Outcome.ABORTED
    assert "closed" in str(ended.error_message)
    assert answers == []


def test_a_try_has_its_own_time_and_is_cancelled_when_that_is_over(make_service: Make) -> None:
    shop = Shop()
    cancelled: list[int] = []

    @shop.operation("hang")
    async def hang(request: OperationRequest) -> str:
        if request.attempt > 1:
            return "done"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(request.attempt)
            raise
        return "never"

    saga = Saga("s1")
    saga.step("shop", "hang", timeout_seconds=0.05, compensation=None)
    assert run(make_service, shop, saga).success
    assert cancelled == [1]


# ---- turning round -------------------------------------------------------------------------


def test_an_operation_may_bring_its_own_compensation_or_none(make_service: Make) -> None:
    shop = Shop()
    seen: list[dict[str, Any]] = []
    shop.operation("note")(lambda request: seen.append(request.operation))
    shop.raises["d"] = [Permanent("no")]
    saga = Saga("s1")
    saga.step("shop", "do", id="a", compensation={"type": "note", "of": "a"})
    saga.step("shop", "do", id="b", compensation=None)
    saga.step("shop", "do", id="c")
    saga.step("shop", "do", id="d")
    assert run(make_service, shop, saga).outcome is Outcome.ABORTED
    assert shop.calls == ["a", "b", "c", "d", "undo c"]
    assert seen == [{"type": "note", "of": "a"}]


def test_behind_the_pivot_a_step_is_tried_until_it_is_done(make_service: Make) -> None:
    shop = Shop()
    shop.raises["c"] = [OSError("gone") for _ in range(3)]
    saga = Saga("s1")
    saga.step("shop", "do", id="a")
    saga.pivot("shop", "do", id="b")
    saga.step("shop", "do", id="c", max_retries=0)
    assert run(make_service, shop, saga).outcome is Outcome.COMMITTED
    assert shop.calls == ["a", "b", "c", "c", "c", "c"]


def test_a_pivot_that_fails_turns_the_saga_round(make_service: Make) -> None:
    shop = Shop()
    shop.raises["b"] = [Permanent("no")]
    saga = Saga("s1")
    saga.step("shop", "do", id="a")
    saga.pivot("shop", "do", id="b")
    saga.step("shop", "do", id="c")
    assert run(make_service, shop, saga).outcome is Outcome.ABORTED
    assert shop.calls == ["a", "b", "undo a"]


def test_a_compensation_whose_tries_are_spent_is_parked_and_redriven(make_service: Make) -> None:
    shop = Shop()
    shop.raises["b"] = [Permanent("no")]
    shop.undo_raises["a"] = [Permanent("the line is dead")]
    saga = chain("s1", "a", "b")

    async def scenario() -> None:
        async with make_service({"shop": shop}) as service:
            parked = await saga.run(service)
            assert (parked.outcome, parked.final_state) == (
                Outcome.HEURISTIC,
                TransactionState.FAILED,
            )
            assert parked.code == "saga.parked"
            assert "'a'" in str(parked.error_message)
            assert "the line is dead" in str(parked.error_message)
            assert "redrive" in str(parked.error_message)
            assert await states(service, saga) == {"a": "parked", "b": "failed"}
            (letter,) = await service.dead_letters()
            assert (letter.coordination_id, letter.operation_id) == ("s1", "a")
            assert (letter.store, letter.work) == ("shop", "compensate")
            assert await service.redrive("nobody") is False
            assert await service.redrive("a") is True
            ended = await service.wait_for("s1", timeout=30)
            assert ended.outcome is Outcome.ABORTED
            assert await service.dead_letters() == []
            assert await states(service, saga) == {"a": "compensated", "b": "failed"}

    asyncio.run(scenario())
    assert shop.calls == ["a", "b", "undo a", "undo a"]


def test_what_is_parked_is_still_parked_for_the_next_service(make_service: Make) -> None:
    shop = Shop()
    shop.raises["b"] = [Permanent("no")]
    shop.undo_raises["a"] = [Permanent("the line is dead")]
    assert run(make_service, shop, chain("s1", "a", "b")).code == "saga.parked"

    async def scenario() -> None:
        async with make_service({"shop": shop}) as service:
            (letter,) = await service.dead_letters()
            assert letter.operation_id == "a"
            assert await service.redrive("a")
            assert (await service.wait_for("s1", timeout=30)).outcome is Outcome.ABORTED

    asyncio.run(scenario())
    # After recovery there is no caller: the operation is what the journal kept.
    assert shop.requests[-1].operation == chain("s1", "a").request().operations[0]


def test_an_abort_on_request_turns_it_round_once_the_step_that_is_out_answers(
    make_service: Make,
) -> None:
    shop = Shop()
    asked, go = asyncio.Event(), asyncio.Event()

    @shop.operation("slow")
    async def slow(request: OperationRequest) -> int:
        asked.set()
        await go.wait()
        return 5

    undone: list[Any] = []

    @slow.compensation
    async def undo_slow(request: OperationRequest) -> None:
        undone.append(request.context[request.operation_id])

    saga = Saga("s1")
    saga.step("shop", "do", id="a")
    saga.step("shop", "slow", id="b")
    saga.step("shop", "do", id="c")

    async def scenario() -> None:
        async with make_service({"shop": shop}) as service:
            running = asyncio.create_task(saga.run(service))
            await asked.wait()
            assert await service.abort_coordination("s1", "changed our minds")
            go.set()
            ended = await running
            assert ended.outcome is Outcome.ABORTED
            assert ended.code == "transaction.aborted.requested"
            assert "changed our minds" in str(ended.error_message)
            await service.wait_for("s1", timeout=30)

    asyncio.run(scenario())
    assert undone == [5]
    assert shop.calls == ["a", "undo a"]


def test_time_that_is_over_turns_it_round(make_service: Make) -> None:
    shop = Shop()
    shop.gates["b"] = asyncio.Event()
    saga = Saga("s1")
    saga.step("shop", "do", id="a")
    saga.step("shop", "do", id="b", timeout_seconds=1)

    async def scenario() -> None:
        async with make_service({"shop": shop}) as service:
            request = saga.request()
            request.timeout_seconds = 0.2  # type: ignore[assignment]
            ended = await service.coordinate_transaction(request)
            assert ended.outcome is Outcome.ABORTED
            assert ended.code == "transaction.aborted.timeout"
            assert (await service.wait_for("s1", timeout=30)).outcome is Outcome.ABORTED
            assert await states(service, saga) == {"a": "compensated", "b": "compensated"}

    asyncio.run(scenario())
    assert shop.calls == ["a", "b", "undo b", "undo a"]


# ---- ids -----------------------------------------------------------------------------------


def test_the_same_saga_again_joins_it_or_gives_its_result(make_service: Make) -> None:
    shop = Shop()
    shop.gates["a"] = asyncio.Event()

    async def scenario() -> None:
        async with make_service({"shop": shop}) as service:
            first = asyncio.create_task(chain("s1", "a").run(service))
            second = asyncio.create_task(chain("s1", "a").run(service))
            shop.gates["a"].set()
            assert (await first).success and (await second).success
            assert (await chain("s1", "a").run(service)).success
            other = await chain("s1", "a", "b").run(service)
            assert (other.outcome, other.code) == (Outcome.REFUSED, "request.conflict")

    asyncio.run(scenario())
    assert shop.calls == ["a"]


def test_a_saga_goes_on_with_the_next_service(make_service: Make) -> None:
    shop = Shop()
    shop.gates["b"] = asyncio.Event()

    async def left_behind() -> None:
        service = make_service({"shop": shop})
        asked = asyncio.create_task(chain("s1", "a", "b", "c", gives=3).run(service))
        while "b" not in shop.calls:
            await asyncio.sleep(0.01)
        await service.close(timeout=0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    asyncio.run(left_behind())
    del shop.gates["b"]

    async def goes_on() -> None:
        async with make_service({"shop": shop}) as service:
            assert (await service.wait_for("s1", timeout=30)).outcome is Outcome.COMMITTED

    asyncio.run(goes_on())
    assert shop.calls == ["a", "b", "b", "c"]
    assert shop.requests[-1].context == {"a": 3, "b": 3}
    assert shop.requests[2].attempt == 2


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_saga_is_resumed_also_where_the_participant_has_forgotten_how_to_undo(
    make_service: Make, is_refused: bool
) -> None:
    """It is not lost: it goes on, and what would have to be undone is parked for an operator."""
    shop, after = Shop(), Shop(can_undo=False)
    shop.gates["b"] = asyncio.Event()
    if is_refused:
        after.raises["b"] = [Permanent("no")]

    async def left_behind() -> None:
        service = make_service({"shop": shop})
        asked = asyncio.create_task(chain("s1", "a", "b").run(service))
        while "b" not in shop.calls:
            await asyncio.sleep(0.01)
        await service.close(timeout=0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    async def goes_on() -> None:
        async with make_service({"shop": after}) as service:
            outcome = (await service.wait_for("s1", timeout=30)).outcome
            assert outcome is (Outcome.HEURISTIC if is_refused else Outcome.COMMITTED)
            parked = [letter.operation_id for letter in await service.dead_letters()]
            # Nobody knows whether `b` was done, so it is to be undone first.
            assert parked == (["b"] if is_refused else [])

    asyncio.run(left_behind())
    asyncio.run(goes_on())


# ---- what stores and requests do wrong -----------------------------------------------------


class Answering:
    """A store by duck typing that gives whatever it was told to."""

    compensable_operations = ("x",)

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.undone = 0

    def execute_operation(self, request: OperationRequest) -> Any:
        return self.answer

    async def compensate_operation(self, request: OperationRequest) -> Any:
        self.undone += 1
        return OperationResult("odd", "SUCCESS")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"ok": True}, "returned the dict {'ok': True}; return an OperationResult whose status is"),
        (None, "returned the NoneType None; return an OperationResult"),
        (OperationResult("odd", "DONE"), 'status is "SUCCESS" or "FAILED"'),
        (
            OperationResult("odd", "SUCCESS", {"when": [1, {2}]}),
            "gave a result that is not JSON: result['when'][1] is a set",
        ),
        (OperationResult("odd", "SUCCESS", float("nan")), "result is NaN, which JSON cannot hold"),
    ],
)
def test_a_wrong_answer_leaves_open_what_happened_and_is_told_with_its_place(
    make_service: Make, answer: Any, words: str
) -> None:
    store = Answering(answer)
    saga = Saga("s1")
    saga.step("odd", "x", max_retries=0)

    async def scenario() -> CoordinationResult:
        async with make_service({"odd": store}) as service:
            return await saga.run(service)

    ended = asyncio.run(scenario())
    assert ended.outcome is Outcome.ABORTED
    assert "store 'odd': execute_operation()" in str(ended.error_message)
    assert words in str(ended.error_message)
    # It may have had an effect, so it is undone.
    assert store.undone == 1


def test_an_operation_that_a_participant_lacks_had_no_effect(make_service: Make) -> None:
    shop = Shop()
    saga = Saga("s1")
    saga.step("shop", "do", id="a")
    saga.step("shop", "dont", id="b", compensation=None)
    ended = run(make_service, shop, saga)
    assert ended.outcome is Outcome.ABORTED
    assert "participant 'shop' has no operation 'dont'; its operations are: 'do'" in str(
        ended.error_message
    )
    assert shop.calls == ["a", "undo a"]


def test_a_store_that_cannot_execute_is_refused_by_the_methods_name(make_service: Make) -> None:
    async def scenario() -> None:
        shop = Shop()
        async with make_service({"shop": shop, "left": Ledger("left")}) as service:
            saga = chain("s1", "a")
            saga.step("left", "put", {"key": "k", "value": 1}, compensation=None)
            refused = await saga.run(service)
            assert (refused.outcome, refused.code) == (Outcome.REFUSED, "request.missing_method")
            assert "store 'left' has no method execute_operation()" in str(refused.error_message)
            assert shop.calls == []

    asyncio.run(scenario())


def test_what_nobody_can_undo_is_refused_before_anything_runs(make_service: Make) -> None:
    shop = Shop()
    shop.operation("note")(lambda request: None)
    operations: list[dict[str, Any]] = [
        {"store": "shop", "type": "do", "operation_id": "a"},
        {"store": "shop", "type": "note", "operation_id": "b"},
    ]
    kind = CoordinationType.SAGA_ORCHESTRATION
    by_hand = CoordinationRequest("s1", kind, ["shop"], operations)

    async def scenario() -> None:
        async with make_service({"shop": shop}) as service:
            refused = await service.coordinate_transaction(by_hand)
            assert refused.outcome is Outcome.REFUSED
            assert "'b'" in str(refused.error_message)
            assert "compensation" in str(refused.error_message)
            with pytest.raises(InvalidRequest, match="step 'b'"):
                await Saga.of(by_hand).run(service)

    asyncio.run(scenario())
    assert shop.calls == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([{"depends_on": ["b"]}, {}], "circle"),
        ([{"depends_on": ["nobody"]}, {}], "'nobody'"),
        ([{}, {"operation_id": "a"}], "operation_id 'a' of an earlier one"),
        ([{"pivot": True}, {"pivot": True}], "pivot"),
        ([{"pivot": "yes"}, {}], "'pivot'"),
        ([{"depends_on": "a"}, {}], "'depends_on'"),
        ([{"compensation": {"amount": 1}}, {}], "'compensation' without a 'type'"),
    ],
)
def test_a_bad_request_is_refused_before_anything_runs(
    make_service: Make, changes: list[dict[str, Any]], words: str
) -> None:
    shop = Shop()
    operations = [
        {"store": "shop", "type": "do", "operation_id": name, **change}
        for name, change in zip("ab", changes, strict=True)
    ]
    request = CoordinationRequest("s1", CoordinationType.SAGA_ORCHESTRATION, ["shop"], operations)

    async def scenario() -> None:
        async with make_service({"shop": shop}) as service:
            refused = await service.coordinate_transaction(request)
            assert refused.outcome is Outcome.REFUSED
            assert words in str(refused.error_message)
            assert await service.describe("s1") is None

    asyncio.run(scenario())
    assert shop.calls == []


# ---- stores written in Rust ------------------------------------------------------------------


def test_native_stores_and_participants_are_steps_of_one_saga(
    make_service: Make, tmp_path: Path
) -> None:
    shop = Shop()
    shop.raises["last"] = [Permanent("no")]

    def booking(coordination_id: str) -> Saga:
        saga = Saga(coordination_id)
        insert = {
            "statement": "INSERT INTO booking (who) VALUES (?) RETURNING id",
            "parameters": ["ann"],
        }
        delete = {
            "type": "execute",
            "statement": "DELETE FROM booking WHERE id = ?",
            "parameters": [{"$result": "row", "path": ["rows", 0, "id"]}],
        }
        saga.step("rows", "execute", insert, id="row", compensation=delete)
        put = {"key": "note", "value": {"$result": "row", "path": ["rows", 0, "id"]}}
        saga.step("memory", "put", put, id="note", compensation={"type": "delete", "key": "note"})
        saga.step("shop", "do", id=f"last{'' if coordination_id == 's1' else ' too'}")
        return saga

    async def scenario() -> None:
        rows, memory = SqliteStore(tmp_path / "rows.db", "rows"), MemoryStore()
        stores = {"rows": rows, "memory": memory, "shop": shop}
        async with make_service(stores) as service:
            async with service.transaction() as tx:
                tx.add("rows", "execute", statement="CREATE TABLE booking "
                       "(id INTEGER PRIMARY KEY AUTOINCREMENT, who TEXT)")  # fmt: skip
            assert (await booking("s1").run(service)).outcome is Outcome.ABORTED
            assert await rows.fetch("SELECT * FROM booking") == []
            assert await memory.get("note") is None
            (await booking("s2").run(service)).raise_for_state()
            assert await rows.fetch("SELECT * FROM booking") == [{"id": 2, "who": "ann"}]
            assert await memory.get("note") == 2
            assert shop.requests[-1].context["row"]["rows"] == [{"id": 2}]

    asyncio.run(scenario())
