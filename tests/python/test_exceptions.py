"""The exceptions: their tree, what they carry, and that they survive pickling."""

from __future__ import annotations

import inspect
import pickle

import pytest

import unanimity
from unanimity import CoordinationResult, Outcome, TransactionState, UnanimityError, _exceptions

KINDS = [
    kind
    for _, kind in inspect.getmembers(_exceptions, inspect.isclass)
    if issubclass(kind, UnanimityError)
]

TREE = {
    "ConfigError": (UnanimityError, ValueError),
    "JournalError": (UnanimityError,),
    "InvalidRequest": (UnanimityError, ValueError),
    "ServiceClosed": (UnanimityError,),
    "ServiceElsewhere": (UnanimityError, RuntimeError),
    "StoreError": (UnanimityError,),
    "Permanent": (UnanimityError,),
    "LockError": (UnanimityError,),
    "LockTimeout": (unanimity.LockError,),
    "DeadlockDetected": (unanimity.LockError,),
    "LockLost": (unanimity.LockError,),
    "ConsensusError": (UnanimityError,),
    "NotLeader": (unanimity.ConsensusError,),
    "NoQuorum": (unanimity.ConsensusError,),
    "EventBusError": (UnanimityError,),
    "TransactionError": (UnanimityError,),
    "TransactionAborted": (unanimity.TransactionError,),
    "TransactionFailed": (unanimity.TransactionError,),
    "TransactionInDoubt": (unanimity.TransactionError,),
    "InternalError": (UnanimityError,),
}


def result(
    state: TransactionState, success: bool = False, code: str | None = None
) -> CoordinationResult:
    return CoordinationResult("t1", success, state, "why", 3, ["a"], 0, 1, code)


def test_the_tree_is_as_drawn() -> None:
    assert {kind.__name__ for kind in KINDS} == {"UnanimityError", *TREE}
    for name, bases in TREE.items():
        assert getattr(unanimity, name).__bases__ == bases
        assert name in (_exceptions.__doc__ or "")


@pytest.mark.parametrize("kind", KINDS)
def test_every_exception_pickles_with_all_it_carries(kind: type[UnanimityError]) -> None:
    error = kind(
        "it broke", code="a.code", coordination_id="t1", store="left", retryable=True, hint="mend"
    )
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == str(error) == "it broke; mend"
    assert vars(back) == vars(error)


@pytest.mark.parametrize("kind", KINDS)
def test_every_exception_has_a_stable_code_of_its_own(kind: type[UnanimityError]) -> None:
    assert kind("x").code == kind.default_code
    assert [other for other in KINDS if other.default_code == kind.default_code] in (
        [kind],
        # The root of the transaction errors is never raised by itself.
        [unanimity.TransactionError, kind],
    )


def test_a_transaction_error_carries_its_result_through_pickling() -> None:
    error = unanimity.TransactionAborted(result=result(TransactionState.ABORTED, code="c"))
    back = pickle.loads(pickle.dumps(error))
    assert back.result == error.result
    assert (back.code, back.coordination_id, str(back)) == ("c", "t1", "why")


@pytest.mark.parametrize(
    ("state", "success", "code", "outcome", "raised"),
    [
        (TransactionState.COMMITTED, True, None, Outcome.COMMITTED, None),
        (TransactionState.COMMITTING, True, "store.silent", Outcome.COMMITTED, None),
        (TransactionState.ABORTED, False, "vote.abort", Outcome.ABORTED, "TransactionAborted"),
        (TransactionState.ABORTING, False, None, Outcome.ABORTED, "TransactionAborted"),
        (TransactionState.PREPARED, False, None, Outcome.UNKNOWN, "TransactionInDoubt"),
        (TransactionState.PREPARING, False, None, Outcome.UNKNOWN, "TransactionInDoubt"),
        (TransactionState.INITIATED, False, None, Outcome.UNKNOWN, "TransactionInDoubt"),
        (TransactionState.FAILED, False, "heuristic.x", Outcome.HEURISTIC, "TransactionFailed"),
        (TransactionState.FAILED, False, None, Outcome.HEURISTIC, "TransactionFailed"),
        (TransactionState.FAILED, False, "request.type", Outcome.REFUSED, "InvalidRequest"),
    ],
)
def test_a_result_means_one_thing_and_raises_accordingly(
    state: TransactionState, success: bool, code: str | None, outcome: Outcome, raised: str | None
) -> None:
    answer = result(state, success, code)
    assert answer.outcome is outcome
    if raised is None:
        assert answer.raise_for_state() is answer
        return
    with pytest.raises(UnanimityError) as caught:
        answer.raise_for_state()
    assert type(caught.value).__name__ == raised
    assert caught.value.coordination_id == "t1"
    if isinstance(caught.value, unanimity.TransactionError):
        assert caught.value.result is answer
