"""The judge of histories is right itself: what the model made passes, what it cannot make does not.

Times are whole numbers here; what is judged knows no clock.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator

import pytest

from linearizability import (
    NEVER,
    Operation,
    after,
    explanation,
    proposed,
    read,
    told,
    unexplained,
)

COMMIT, ABORT = "COMMIT", "ABORT"
SEEDS = 400


@pytest.fixture(scope="module")
def seed() -> int:
    chosen = int(os.environ.get("SEED") or random.randrange(1_000_000))
    print(f"SEED={chosen}")
    return chosen


# ---- good ones --------------------------------------------------------------------------------


def made_by_the_model(chance: random.Random, count: int, clients: int = 4) -> list[Operation]:
    """What `clients` see of a register that takes each call at one moment inside of it.

    Some answers are lost: of those that took effect, and of those that never did.
    """
    free_at = [0.0] * clients
    moments: list[tuple[float, float, str | None]] = []
    for _ in range(count):
        client = chance.randrange(clients)
        called = free_at[client] + chance.randint(0, 2)
        moment = called + chance.randint(0, 5)
        free_at[client] = moment + chance.randint(0, 3)
        value = chance.choice([COMMIT, ABORT, None])
        moments.append((moment, called, value))
    state: str | None = None
    found = []
    for moment, called, value in sorted(moments, key=lambda it: it[0]):
        returned = moment + chance.random()
        is_lost = chance.random() < 0.2
        if value is None:
            found.append(read("k", state, called, returned))
        elif is_lost and chance.random() < 0.5:
            found.append(proposed("k", value, called))
        else:
            state = state or value
            # A refusal is no more than silence, as with a real node.
            is_told = not is_lost and state == value
            found.append(proposed("k", value, called, returned if is_told else NEVER))
    return found


def test_what_the_model_made_is_explained_by_an_order_that_holds(seed: int) -> None:
    for number in range(SEEDS):
        history = made_by_the_model(random.Random(seed + number), 24)
        order = explanation(history)
        assert order is not None, f"SEED={seed + number}\n{told({'k': history})}"
        assert is_in_order(order), f"SEED={seed + number}\n{told({'k': order})}"
        assert {it for it in history if it.returned != NEVER} <= set(order)


def test_a_decision_that_came_late_or_never_is_explained() -> None:
    lost = proposed("k", COMMIT, 0)
    assert unexplained([lost, read("k", None, 1, 2), read("k", COMMIT, 3, 4)]) == {}
    assert unexplained([lost, read("k", None, 1, 2), proposed("k", ABORT, 3, 4)]) == {}
    assert unexplained([lost, lost, lost]) == {}


def test_calls_at_one_time_may_have_come_in_any_order() -> None:
    history = [
        proposed("k", COMMIT, 0, 9),
        read("k", None, 1, 8),
        read("k", COMMIT, 1, 8),
        proposed("k", ABORT, 1),
    ]
    assert unexplained(history) == {}


def test_a_long_history_of_many_at_once_is_judged() -> None:
    """Without its memory the search would not end."""
    many = [proposed("k", COMMIT, 0, 100)]
    many += [read("k", None, 1 + number, 60 + number) for number in range(30)]
    assert unexplained(many) == {}
    # Only the last one is wrong, and everything before it can be ordered in many ways.
    assert "k" in unexplained([*many, read("k", ABORT, 200, 201)])


# ---- planted bad ones -------------------------------------------------------------------------


def assert_refused(*history: Operation) -> None:
    wrong = unexplained(history)
    assert list(wrong) == ["k"], "it was taken for good"
    assert "no order explains k" in told(wrong)


def test_a_stale_read_is_refused() -> None:
    assert_refused(proposed("k", COMMIT, 0, 1), read("k", None, 2, 3))


def test_two_decisions_are_refused() -> None:
    assert_refused(proposed("k", COMMIT, 0, 5), proposed("k", ABORT, 1, 4))


def test_a_lost_decision_that_was_acknowledged_is_refused() -> None:
    assert_refused(
        proposed("k", COMMIT, 0, 1),
        proposed("k", ABORT, 2),
        read("k", ABORT, 3, 4),
    )


def test_a_read_from_the_future_is_refused() -> None:
    assert_refused(read("k", COMMIT, 0, 1), proposed("k", COMMIT, 2, 3))


def test_a_read_from_the_future_of_a_call_without_an_answer_is_refused() -> None:
    assert_refused(read("k", COMMIT, 0, 1), proposed("k", COMMIT, 2))


def test_a_decision_that_nobody_proposed_is_refused() -> None:
    assert_refused(proposed("k", COMMIT, 0), read("k", ABORT, 1, 2))


def test_a_decision_that_was_seen_and_is_gone_is_refused() -> None:
    assert_refused(proposed("k", COMMIT, 0), read("k", COMMIT, 1, 2), read("k", None, 3, 4))


def test_a_decision_that_changed_is_refused() -> None:
    assert_refused(
        proposed("k", COMMIT, 0),
        proposed("k", ABORT, 0),
        read("k", COMMIT, 1, 2),
        read("k", ABORT, 3, 4),
    )


def test_readers_at_one_time_who_saw_different_decisions_are_refused() -> None:
    assert_refused(
        proposed("k", COMMIT, 0),
        proposed("k", ABORT, 0),
        read("k", COMMIT, 1, 5),
        read("k", ABORT, 1, 5),
    )


def test_an_acknowledgement_of_what_lost_is_refused() -> None:
    assert_refused(proposed("k", ABORT, 0), read("k", ABORT, 1, 2), proposed("k", COMMIT, 3, 4))


def test_an_acknowledgement_before_it_stood_is_refused() -> None:
    """It came into force after it was answered, and a reader in between saw that."""
    assert_refused(
        proposed("k", COMMIT, 0, 2),
        read("k", None, 3, 6),
        read("k", COMMIT, 4, 5),
    )


def test_one_bad_key_among_many_good_ones_is_named() -> None:
    good = [
        operation
        for number in range(50)
        for operation in (
            proposed(f"g{number}", COMMIT, number, number + 2),
            read(f"g{number}", COMMIT, number + 3, number + 4),
        )
    ]
    bad = [proposed("k", COMMIT, 0, 1), read("k", None, 2, 3)]
    assert_refused(*good[:40], *bad, *good[40:])


# ---- beside every order there is --------------------------------------------------------------


def is_in_order(order: list[Operation]) -> bool:
    """Whether nobody stands before one that had ended before it was called, and all are right."""
    state = None
    for number, operation in enumerate(order):
        if any(later.returned < operation.called for later in order[number + 1 :]):
            return False
        is_right, state = after(state, operation)
        if not is_right:
            return False
    return True


def orders(history: list[Operation]) -> Iterator[list[Operation]]:
    """Every order of all that were answered and of some that were not."""
    answered = [it for it in history if it.returned != NEVER]
    lost = [it for it in history if it.returned == NEVER]
    for count in range(len(lost) + 1):
        for some in itertools.combinations(lost, count):
            yield from (list(one) for one in itertools.permutations([*answered, *some]))


def any_history(chance: random.Random) -> list[Operation]:
    """A few operations with answers out of the air; most are wrong, some are right."""
    found = []
    for _ in range(chance.randint(1, 5)):
        called = chance.randint(0, 6)
        returned = called + chance.randint(0, 4)
        value = chance.choice([COMMIT, ABORT])
        if chance.random() < 0.5:
            found.append(read("k", chance.choice([value, value, None]), called, returned))
        else:
            found.append(proposed("k", value, called, chance.choice([returned, NEVER])))
    return found


def test_random_histories_are_judged_as_by_trying_every_order(seed: int) -> None:
    verdicts = []
    for number in range(3 * SEEDS):
        history = any_history(random.Random(seed + number))
        is_good = any(is_in_order(order) for order in orders(history))
        verdicts.append(is_good)
        judged = explanation(history) is not None
        assert judged == is_good, f"SEED={seed + number}\n{told({'k': history})}"
    assert 100 < sum(verdicts) < len(verdicts) - 100, "nearly all are of one kind"
