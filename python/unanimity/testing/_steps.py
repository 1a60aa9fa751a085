"""The duties of execute and compensate, while the process lives: the steps of a saga.

Not what survives it: that is `_kills`. The rules are those of barrier.md. A put whose key had
no value is the operation, and its undoing takes the value away.
"""

from __future__ import annotations

import asyncio

from .._stores import OperationRequest
from ._asked import Done
from ._duties import Bench, Duty, expect

AT_ONCE = 8


async def executed(bench: Bench, request: OperationRequest) -> Done:
    """Ask for an operation, which must be done."""
    done = await bench.asked.execute(request)
    words = f"execute is answered {done.status}, not SUCCESS"
    expect(done.status == "SUCCESS", words, request.transaction_id)
    return done


async def compensated(bench: Bench, request: OperationRequest, result: object = None) -> Done:
    """Ask for its undoing, which must be done."""
    context = {} if result is None else {request.operation_id: result}
    fields = {**vars(request), "context": context}
    done = await bench.asked.compensate(OperationRequest(**fields))
    words = f"compensate is answered {done.status}, not SUCCESS"
    expect(done.status == "SUCCESS", words, request.transaction_id)
    return done


async def step_shows(bench: Bench) -> None:
    """Execute and read."""
    key = bench.key()
    request = bench.step(key, "one")
    await executed(bench, request)
    await bench.shows(key, "one", "it was executed", request.transaction_id)


async def step_again(bench: Bench) -> None:
    """Asked again after somebody else changed the key, it must do nothing and say the same."""
    key = bench.key()
    first, second = bench.step(key, "one"), bench.step(key, "two")
    done = await executed(bench, first)
    await executed(bench, second)
    again = await executed(bench, OperationRequest(**{**vars(first), "attempt": 2}))
    about = (first.transaction_id, second.transaction_id)
    await bench.shows(key, "two", "an operation that was asked again was done twice", *about)
    words = f"asked again it gives {again.result!r}, and gave {done.result!r} the first time"
    expect(again.result == done.result, words, *about)


async def step_undone(bench: Bench) -> None:
    """Execute, compensate, read."""
    key = bench.key()
    request = bench.step(key, "one")
    done = await executed(bench, request)
    await compensated(bench, request, done.result)
    await bench.shows(key, None, "it was undone", request.transaction_id)


async def undone_again(bench: Bench) -> None:
    """Undone again after somebody else set the key, it must leave that alone."""
    key = bench.key()
    first, second = bench.step(key, "one"), bench.step(key, "two")
    done = await executed(bench, first)
    await compensated(bench, first, done.result)
    await executed(bench, second)
    await compensated(bench, first, done.result)
    about = (first.transaction_id, second.transaction_id)
    await bench.shows(key, "two", "an undoing that was asked again was done twice", *about)


async def undone_first(bench: Bench) -> None:
    """Undo what was never done, then ask for it: it must be refused for good."""
    key = bench.key()
    other, request = bench.step(key, "two"), bench.step(key, "one")
    await executed(bench, other)
    await compensated(bench, request)
    about = (request.transaction_id, other.transaction_id)
    await bench.shows(key, "two", "the undoing of what was never done changed something", *about)
    late = await bench.asked.execute(request)
    words = (
        f"an operation that comes after its own undoing is answered {late.status}, and nobody "
        "would ever undo it; refuse it: FAILED, not retryable"
    )
    expect(late.status == "FAILED" and not late.retryable, words, *about)
    await bench.shows(key, "two", "an operation that came after its undoing was done", *about)


async def bad_step(bench: Bench) -> None:
    """An operation that cannot be done."""
    request = bench.step(bench.key(), "one")
    operation = {**request.operation, **bench.bad(bench.key())}
    done = await bench.asked.execute(OperationRequest(**{**vars(request), "operation": operation}))
    words = (
        f"an operation that cannot be done is answered {done.status}"
        f"{', to be tried again' if done.retryable else ''}; answer FAILED, not retryable"
    )
    expect(done.status == "FAILED" and not done.retryable, words, request.transaction_id)


async def steps_at_once(bench: Bench) -> None:
    """Operations on keys of their own, each asked twice at once, half of them undone."""
    requests = [bench.step(bench.key(), f"v{number}") for number in range(AT_ONCE)]

    async def one(number: int) -> None:
        request = requests[number]
        # One of the two may be told to come again: the other is at it.
        twice = [bench.asked.execute(request) for _ in range(2)]
        answers = [done.status for done in await asyncio.gather(*twice)]
        words = f"asked twice at once it answers {answers}; one at least must be SUCCESS"
        expect("SUCCESS" in answers, words, request.transaction_id)
        if number % 2:
            await compensated(bench, request)

    await asyncio.gather(*map(one, range(AT_ONCE)))
    for number, request in enumerate(requests):
        key = request.operation_id.partition(":")[2]
        value = None if number % 2 else f"v{number}"
        await bench.shows(key, value, "steps ran at once", request.transaction_id)


_EXECUTE = ("execute_operation",)
_BOTH = ("execute_operation", "compensate_operation")

FIRST = Duty("step", "what was executed can be read", step_shows, _EXECUTE)

DUTIES = (
    FIRST,
    Duty(
        "step-again",
        "an operation that is asked again has one effect and gives the first result",
        step_again,
        _EXECUTE,
    ),
    Duty("step-bad", "an operation that cannot be done fails for good", bad_step, _EXECUTE),
    Duty("undo", "a compensation undoes its operation", step_undone, _BOTH),
    Duty("undo-again", "a compensation that is asked again has one effect", undone_again, _BOTH),
    Duty(
        "undo-first",
        "a compensation without its operation does nothing, and the operation is refused after it",
        undone_first,
        _BOTH,
    ),
    Duty("steps-at-once", "operations at once do not disturb each other", steps_at_once, _BOTH),
)
