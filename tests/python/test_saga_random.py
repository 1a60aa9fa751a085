"""Random sagas, many at once, against what must hold of every one: order, tries, undoing.

Each saga is drawn from a seed that a failure prints: its graph, its pivot, and what each try of
each step does. Not crashes: those are the simulation's and the kill matrix's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from unanimity import (
    CoordinationService,
    OperationRequest,
    OperationResult,
    Outcome,
    Participant,
    Permanent,
    Saga,
)

SAGAS = 120
Make = Callable[..., CoordinationService]


class Drawn:
    """One random saga, and what happened to it."""

    def __init__(self, seed: int) -> None:
        dice = random.Random(seed)
        self.id = f"s{seed}"
        self.saga = Saga(self.id)
        self.needed: dict[str, list[str]] = {}
        self.tries: dict[str, list[str]] = {}
        self.most: dict[str, int] = {}
        self.nothing_to_undo: set[str] = set()
        self.pivot_is_final = False
        self.events: list[tuple[str, str, str]] = []
        """What was asked, of which step, and what came of it."""
        self.wrong: list[str] = []
        count = dice.randint(1, 7)
        pivot = dice.choice([None, *range(count)])
        for index in range(count):
            self._draw(dice, f"x{index}", index == pivot)
        self.pivot = None if pivot is None else f"x{pivot}"
        # What is certain to be asked while there is a way back.
        self.bound = set(self.needed) if self.pivot is None else self._ahead_of(self.pivot)
        for name in set(self.needed) - self.bound:
            # Where there is none, a final no is for an operator.
            self.tries[name] = [one for one in self.tries[name] if one != "permanent"]
        self.undo_fails = {name: dice.random() < 0.2 for name in self.needed}

    def _draw(self, dice: random.Random, name: str, is_pivot: bool) -> None:
        earlier = list(self.needed)
        after = dice.sample(earlier, min(len(earlier), dice.choice([0, 1, 1, 2])))
        self.needed[name] = after
        self.most[name] = dice.randint(0, 2)
        kinds = ["raise", "failed", "permanent"]
        self.tries[name] = [dice.choice(kinds) for _ in range(dice.choice([0, 0, 0, 0, 0, 1, 2]))]
        if is_pivot:
            self.pivot_is_final = dice.random() < 0.5
            type = "finish" if self.pivot_is_final else "do"
            self.saga.pivot("shop", type, id=name, after=after, max_retries=self.most[name])
            # Whether one without a way back was done, an operator would have to say.
            if self.pivot_is_final:
                self.tries[name] = [one for one in self.tries[name] if one != "raise"]
            return
        more: dict[str, Any] = {}
        if dice.random() < 0.2:
            self.nothing_to_undo.add(name)
            more["compensation"] = None
        self.saga.step("shop", "do", id=name, after=after, max_retries=self.most[name], **more)

    def _ahead_of(self, name: str) -> set[str]:
        return {name}.union(*(self._ahead_of(before) for before in self.needed[name]))

    def told(self, asked: str, what: str) -> list[str]:
        return [name for kind, name, came in self.events if (kind, came) == (asked, what)]

    def check_context(self, request: OperationRequest) -> None:
        """Kept for the end: raised here, it would count as the step's own trouble."""
        done = self.told("do", "ok")
        has = request.context
        may = {name: name for name in done}
        # What is done beside it may be in it or not.
        must = [name for name in self.needed[request.operation_id] if name in done]
        if request.operation_id in done:
            # It is asked to be undone, and its own result is known.
            must.append(request.operation_id)
        if not has.items() <= may.items() or not has.keys() >= set(must):
            self.wrong.append(f"{request.operation_id} got {has}, and must have {must} of {may}")

    # ---- what must hold ------------------------------------------------------------------------

    def check(self, outcome: Outcome) -> None:
        assert self.wrong == []
        self._check_order()
        done = self.told("do", "ok")
        assert len(set(done)) == len(done), "a step was done twice"
        if outcome is Outcome.COMMITTED:
            assert sorted(done) == sorted(self.needed)
            assert not [event for event in self.events if event[0] == "undo"]
            return
        assert outcome is Outcome.ABORTED
        self._check_undoing(done)

    def _check_order(self) -> None:
        done: set[str] = set()
        tries: dict[str, int] = {}
        for asked, name, came in self.events:
            if asked == "undo":
                continue
            assert done.issuperset(self.needed[name]), f"{name} came before what it needs"
            tries[name] = tries.get(name, 0) + 1
            assert name not in self.bound or tries[name] <= self.most[name] + 1, "too many tries"
            if came == "ok":
                done.add(name)

    def _check_undoing(self, done: list[str]) -> None:
        if self.pivot_is_final:
            assert self.pivot not in done, "there was no way back"
        unknown = set(self.told("do", "raise")) - set(done)
        undone = self.told("undo", "ok")
        may_be_there = {*done, *unknown} - self.nothing_to_undo
        assert len(set(undone)) == len(undone), "a step was undone twice"
        assert set(undone) == may_be_there
        first = next((at for at, event in enumerate(self.events) if event[0] == "undo"), None)
        if first is not None:
            assert all(event[0] == "undo" for event in self.events[first:]), "forward again"
        in_order = [name for name in undone if name in done]
        assert in_order == [name for name in reversed(done) if name in undone]
        assert undone[: len(undone) - len(in_order)] == [n for n in undone if n not in done]


def shop_for(drawn: dict[str, Drawn]) -> Participant:
    shop = Participant("shop")

    async def do(request: OperationRequest) -> Any:
        saga, name = drawn[request.transaction_id], request.operation_id
        await asyncio.sleep(0)
        came = saga.tries[name].pop(0) if saga.tries[name] else "ok"
        saga.check_context(request)
        saga.events.append(("do", name, came))
        if came == "raise":
            raise OSError("nobody knows")
        if came == "permanent":
            raise Permanent("it is no use")
        if came == "failed":
            return OperationResult("shop", "FAILED", error_message="busy")
        return name

    async def undo(request: OperationRequest) -> None:
        saga, name = drawn[request.transaction_id], request.operation_id
        fails, saga.undo_fails[name] = saga.undo_fails[name], False
        saga.events.append(("undo", name, "raise" if fails else "ok"))
        saga.check_context(request)
        if fails:
            raise OSError("the line is dead")

    shop.operation("do")(do).compensation(undo)
    shop.operation("finish")(do)
    return shop


def test_random_sagas_are_done_or_undone_whatever_their_steps_do(make_service: Make) -> None:
    first = random.SystemRandom().randrange(1_000_000)
    print(f"seeds {first} to {first + SAGAS - 1}")
    drawn = {saga.id: saga for saga in map(Drawn, range(first, first + SAGAS))}

    async def scenario() -> None:
        async with make_service({"shop": shop_for(drawn)}) as service:
            running = asyncio.gather(*(one.saga.run(service) for one in drawn.values()))
            results = await asyncio.wait_for(running, 120)
            for one, result in zip(drawn.values(), results, strict=True):
                try:
                    one.check(result.outcome)
                except AssertionError as error:
                    words = f"{one.id}: {error}\n{result}\n{one.saga}\n{one.events}"
                    raise AssertionError(words) from error
            outcomes = {result.outcome for result in results}
            assert outcomes == {Outcome.COMMITTED, Outcome.ABORTED}

    asyncio.run(scenario())
