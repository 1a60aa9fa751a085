"""Participants: stores made of functions, asked by themselves and inside a service."""

from __future__ import annotations

import asyncio
import pickle
import threading
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from ledger import Ledger, request
from unanimity import (
    ConfigError,
    CoordinationService,
    IStorageStore,
    OperationRequest,
    OperationResult,
    Outcome,
    Participant,
    Permanent,
    UnanimityError,
)

Make = Callable[..., CoordinationService]
caller: ContextVar[str] = ContextVar("caller", default="nobody")


def ask(type: str, *, context: dict[str, Any] | None = None, **fields: Any) -> OperationRequest:
    operation = {"store": "payments", "type": type, **fields}
    return OperationRequest("t1", "t1:0", operation, 1, context or {}, 30.0)


def execute(participant: Participant, asked: OperationRequest) -> OperationResult:
    return asyncio.run(participant.execute_operation(asked))


def compensate(participant: Participant, asked: OperationRequest) -> OperationResult:
    return asyncio.run(participant.compensate_operation(asked))


def test_an_operation_is_found_by_its_type_and_gives_its_result() -> None:
    payments = Participant("payments")

    @payments.operation("charge")
    async def charge(request: OperationRequest) -> Any:
        return {"charged": request.operation["amount"]}

    assert isinstance(payments, IStorageStore)
    assert execute(payments, ask("charge", amount=7)) == OperationResult(
        "payments", "SUCCESS", {"charged": 7}
    )
    assert charge.__name__ == "charge"
    assert asyncio.run(charge(ask("charge", amount=8))) == {"charged": 8}
    assert repr(payments) == "Participant('payments', operations=['charge'])"


def test_a_plain_function_runs_in_a_thread_and_sees_its_callers_context() -> None:
    payments = Participant("payments")

    @payments.operation("charge")
    def charge(request: OperationRequest) -> Any:
        seen = caller.get()
        caller.set("the operation itself")
        return {"seen": seen, "thread": threading.current_thread().name}

    async def scenario() -> OperationResult:
        caller.set("ann")
        answer = await payments.execute_operation(ask("charge"))
        assert caller.get() == "ann"
        return answer

    answer = asyncio.run(scenario())
    assert answer.result["seen"] == "ann"
    assert answer.result["thread"].startswith("unanimity-store")


def test_an_unknown_type_had_no_effect_and_says_which_there_are() -> None:
    payments = Participant("payments")
    payments.operation("refund")(lambda request: None)
    payments.operation("charge")(lambda request: None)
    answer = execute(payments, ask("chrage"))
    assert (answer.status, answer.retryable) == ("FAILED", False)
    assert answer.error_message == (
        "participant 'payments' has no operation 'chrage'; its operations are: 'charge', 'refund'"
    )
    assert "its operations are: none" in str(
        execute(Participant("empty"), ask("charge")).error_message
    )


def test_a_compensation_gets_the_operations_own_result_in_its_context() -> None:
    payments = Participant("payments")

    @payments.operation("charge")
    def charge(request: OperationRequest) -> Any:
        return {"id": 5}

    undone: list[Any] = []

    @charge.compensation
    async def refund(request: OperationRequest) -> None:
        undone.append(request.context[request.operation_id]["id"])

    asked = ask("charge", context={"t1:0": {"id": 5}})
    assert compensate(payments, asked).status == "SUCCESS"
    assert undone == [5]
    assert payments.compensable_operations == ["charge"]
    assert asyncio.iscoroutinefunction(refund)


def test_an_operation_may_bring_its_own_compensation_or_say_that_there_is_none() -> None:
    payments = Participant("payments")
    payments.operation("charge")(lambda request: None)
    seen: list[dict[str, Any]] = []

    @payments.operation("refund")
    def refund(request: OperationRequest) -> None:
        seen.append(request.operation)

    own = {"type": "refund", "amount": 3}
    assert compensate(payments, ask("charge", compensation=own)).status == "SUCCESS"
    assert seen == [own]
    assert compensate(payments, ask("charge", compensation=None)).status == "SUCCESS"
    for bad in (ask("charge"), ask("charge", compensation={"type": "no"}), ask("other")):
        answer = compensate(payments, bad)
        assert (answer.status, answer.retryable) == ("FAILED", False)
        assert "its operations are: 'charge', 'refund'" in str(answer.error_message)


def test_what_a_function_raises_goes_on_with_its_traceback() -> None:
    payments = Participant("payments")

    @payments.operation("charge")
    def charge(request: OperationRequest) -> None:
        raise Permanent("the card is closed", store="payments")

    with pytest.raises(Permanent) as caught:
        execute(payments, ask("charge"))
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "charge"
    back = pickle.loads(pickle.dumps(caught.value))
    assert (type(back), str(back), back.store) == (Permanent, "the card is closed", "payments")
    assert isinstance(back, UnanimityError) and not back.retryable


def test_an_operation_result_is_taken_as_it_is() -> None:
    payments = Participant("payments")
    busy = OperationResult("payments", "FAILED", error_message="busy", retryable=True)
    payments.operation("charge")(lambda request: busy)
    assert execute(payments, ask("charge")) is busy


def test_methods_of_an_object_can_be_registered() -> None:
    class Bank:
        def __init__(self) -> None:
            self.balance = 10
            self.participant = Participant("bank")
            self.participant.operation("charge")(self.charge).compensation(self.refund)

        def charge(self, request: OperationRequest) -> int:
            self.balance -= request.operation["amount"]
            return self.balance

        async def refund(self, request: OperationRequest) -> None:
            self.balance += request.operation["amount"]

    bank = Bank()
    assert execute(bank.participant, ask("charge", amount=4)).result == 6
    compensate(bank.participant, ask("charge", amount=4))
    assert bank.balance == 10


def test_registering_badly_says_so_at_once() -> None:
    payments = Participant("payments")

    @payments.operation("charge")
    def charge(request: OperationRequest) -> None: ...

    charge.compensation(lambda request: None)
    with pytest.raises(ConfigError, match="has an operation 'charge' already"):
        payments.operation("charge")(charge)
    with pytest.raises(ConfigError, match="has a compensation already"):
        charge.compensation(lambda request: None)
    with pytest.raises(ConfigError, match="the operation 'x' is None; give a function"):
        payments.operation("x")(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give a str of 1 to 128 characters"):
        payments.operation(charge)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="name is ''"):
        Participant("")


def test_a_two_phase_commit_with_a_participant_is_refused_by_the_name_of_what_it_lacks(
    make_service: Make,
) -> None:
    async def scenario() -> None:
        stores: dict[str, Any] = {"left": Ledger("left"), "payments": Participant("payments")}
        async with make_service(stores) as service:
            refused = await service.coordinate_transaction(request("t1", "left", "payments"))
            assert refused.outcome is Outcome.REFUSED
            assert "store 'payments' has no method prepare_transaction()" in str(
                refused.error_message
            )

    asyncio.run(scenario())
