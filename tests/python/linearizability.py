"""Judges histories of decisions: is there one order of all operations that explains every answer?

Not a client and not a fault. The model is a register for each key that is written once: the first
decision stands, and a proposal of the same one is told so. Invariants: an operation takes effect
at one moment between its call and its answer; one whose answer is not known may take effect at any
moment after its call, or never; keys are judged apart (linearizability is local: Herlihy and Wing,
"Linearizability: a correctness condition for concurrent objects", 1990, theorem 1).

The search is that of J. M. Wing and C. Gong, "Testing and verifying concurrent objects" (1993):
take as the next one any operation that no other one ended before, and go back where that leads
nowhere. With it the memory of G. Lowe, "Testing for linearizability" (2017): what was taken
already, with the state it led to, is not tried again. And one thing of our own: what changes
nothing is taken as soon as it can be, and not tried later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

NEVER = math.inf
"""When an operation ended whose answer is not known."""


@dataclass(frozen=True)
class Operation:
    """One call, with its times by the caller's monotonic clock."""

    key: str
    called: float
    returned: float
    value: str | None
    """What was proposed, or what was read: None where nothing stood."""
    is_write: bool
    by: str = ""
    """Who asked whom, for people."""

    def __str__(self) -> str:
        what = f"proposes {self.value}" if self.is_write else f"reads {self.value}"
        end = "no answer" if self.returned == NEVER else f"{self.returned:.6f}"
        return f"{self.called:.6f} .. {end}: {self.by or 'somebody'} {what}"


def proposed(
    key: str, value: str, called: float, returned: float = NEVER, by: str = ""
) -> Operation:
    """A proposal that was told that its decision stands; without an end, one that was not told."""
    return Operation(key, called, returned, value, True, by)


def read(key: str, value: str | None, called: float, returned: float, by: str = "") -> Operation:
    """A read that was answered. One that was not says nothing, and has no place in a history."""
    return Operation(key, called, returned, value, False, by)


def unexplained(history: Iterable[Operation]) -> dict[str, list[Operation]]:
    """The keys of which no order explains what was told, each with its operations."""
    by_key: dict[str, list[Operation]] = {}
    for operation in history:
        by_key.setdefault(operation.key, []).append(operation)
    return {key: its for key, its in by_key.items() if explanation(its) is None}


def told(wrong: dict[str, list[Operation]]) -> str:
    """For people: what was found, key by key."""
    lines = []
    for key, operations in wrong.items():
        lines.append(f"no order explains {key}:")
        lines += [f"  {each}" for each in sorted(operations, key=lambda it: it.called)]
    return "\n".join(lines)


def after(state: str | None, operation: Operation) -> tuple[bool, str | None]:
    """The model: whether the operation may be answered so in this state, and the next state."""
    if not operation.is_write:
        return operation.value == state, state
    if state is None:
        return True, operation.value
    is_unknown = operation.returned == NEVER
    return is_unknown or operation.value == state, state


def explanation(operations: Iterable[Operation]) -> list[Operation] | None:
    """An order of one key's operations that explains every answer; None where there is none.

    Operations without an answer that took no effect are not in it.
    """
    # Ends first: what is soon to be over is the likeliest to come next.
    waiting = sorted(operations, key=lambda it: (it.returned, it.called))
    answered = sum(1 << number for number, it in enumerate(waiting) if it.returned != NEVER)
    seen: set[tuple[int, str | None]] = set()
    # What was taken, as bits; the state; and the order as pairs of the last one and those before.
    stack: list[tuple[int, str | None, _Taken]] = [(0, None, None)]
    while stack:
        taken, state, order = stack.pop()
        if taken & answered == answered:
            return _listed(order)
        if (taken, state) in seen:
            continue
        seen.add((taken, state))
        stack += [
            (taken | 1 << number, then, (waiting[number], order))
            for number, then in reversed(_next(waiting, taken, state))
        ]
    return None


_Taken = tuple[Operation, "_Taken"] | None


def _listed(order: _Taken) -> list[Operation]:
    found = []
    while order is not None:
        last, order = order
        found.append(last)
    return found[::-1]


def _next(waiting: list[Operation], taken: int, state: str | None) -> list[tuple[int, str | None]]:
    """Which may be next, and the state that each leads to."""
    left = [number for number in range(len(waiting)) if not taken >> number & 1]
    # They are in the order of their ends: who was called later than this one ended, is not next.
    first_end = waiting[left[0]].returned
    found = []
    for number in left:
        operation = waiting[number]
        is_right, then = after(state, operation)
        if operation.called > first_end or not is_right:
            continue
        if then != state:
            found.append((number, then))
        elif operation.returned != NEVER:
            # It changes nothing: in any order of those that are left it may as well be the first.
            return [(number, then)]
        # One without an answer that changes nothing may as well never take effect.
    return found
