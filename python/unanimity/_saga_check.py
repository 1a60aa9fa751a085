"""What can be wrong with a saga before it runs, in words; and which step waits for which.

The engine checks the same again: this is for whoever writes one, so that it is said where the step
is written. Invariant: each complaint names the step and says how to mend it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._exceptions import InvalidRequest

Operation = Mapping[str, Any]


def needs(operations: Sequence[Operation]) -> dict[str, list[str]]:
    """For each operation's id, those that must be done before it.

    An operation without `depends_on` comes after the one before it.
    """
    found: dict[str, list[str]] = {}
    before: list[str] = []
    for operation in operations:
        given = operation.get("depends_on")
        name = operation["operation_id"]
        found[name] = list(dict.fromkeys(before if given is None else given))
        before = [name]
    return found


def in_order(needed: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The ids, each behind what it needs, else in their own order; None if there is a circle."""
    placed: dict[str, None] = {}
    while len(placed) < len(needed):
        ready = (
            name
            for name, before in needed.items()
            if name not in placed and all(id in placed for id in before)
        )
        name = next(ready, None)
        if name is None:
            return None
        placed[name] = None
    return list(placed)


def check(
    coordination_id: str, operations: Sequence[Operation], stores: Mapping[str, Any] | None
) -> None:
    """Raise InvalidRequest with all that is wrong."""
    complaints = list(_complaints(operations, stores))
    if complaints:
        words = "; ".join(complaints)
        raise InvalidRequest(
            f"saga '{coordination_id}': {words}",
            code="request.invalid",
            coordination_id=coordination_id,
        )


def _complaints(operations: Sequence[Operation], stores: Mapping[str, Any] | None) -> list[str]:
    if not operations:
        return ["it has no steps; add one with step()"]
    # Each of these makes the next ones meaningless.
    return (
        _doubled(operations)
        or _unknown(operations)
        or _circle(needs(operations))
        or [*_pivots(operations), *_stuck(operations, stores or {})]
    )


def _doubled(operations: Sequence[Operation]) -> list[str]:
    seen: set[str] = set()
    doubled: dict[str, None] = {}
    for operation in operations:
        name = operation["operation_id"]
        if name in seen:
            doubled[name] = None
        seen.add(name)
    return [f"two steps have the id '{name}'; give each its own" for name in doubled]


def _unknown(operations: Sequence[Operation]) -> list[str]:
    names = [operation["operation_id"] for operation in operations]
    known = ", ".join(f"'{name}'" for name in names)
    return [
        f"step '{name}' comes after {id!r}, which is no step of it; the steps are {known}"
        for name, before in needs(operations).items()
        for id in before
        if id not in names
    ]


def _circle(needed: Mapping[str, Sequence[str]]) -> list[str]:
    if in_order(needed) is not None:
        return []
    # Whoever is never ready waits for somebody who is never ready: following that comes back.
    done: set[str] = set()
    while ready := {n for n, before in needed.items() if n not in done and done.issuperset(before)}:
        done |= ready
    way = [next(name for name in needed if name not in done)]
    while way.count(way[-1]) == 1:
        way.append(next(id for id in needed[way[-1]] if id not in done))
    circle = way[way.index(way[-1]) :]
    shown = " comes after ".join(f"'{name}'" for name in circle)
    return [f"its steps wait for each other: {shown}; leave one of these out"]


def _pivots(operations: Sequence[Operation]) -> list[str]:
    pivots = [operation["operation_id"] for operation in operations if operation.get("pivot")]
    if len(pivots) < 2:
        return []
    shown = " and ".join(f"'{name}'" for name in pivots)
    return [f"{shown} are pivots; a saga has one point of no return, so choose one"]


def _stuck(operations: Sequence[Operation], stores: Mapping[str, Any]) -> list[str]:
    """Steps that may have to be undone and, as far as can be known, cannot be."""
    pivot = next((o["operation_id"] for o in operations if o.get("pivot")), None)
    behind = _behind(pivot, needs(operations))
    return [
        f"step '{operation['operation_id']}' ({operation['store']}.{operation['type']}) {reason}; "
        "give it a compensation, or compensation=None where there is nothing to undo"
        for operation in operations
        if operation["operation_id"] not in behind
        and (reason := _why_stuck(operation, stores.get(operation["store"])))
    ]


def _behind(pivot: str | None, needed: Mapping[str, Sequence[str]]) -> set[str]:
    """The pivot and whatever can only be done when it is done."""
    behind = set() if pivot is None else {pivot}
    while more := {n for n, before in needed.items() if behind.intersection(before)} - behind:
        behind |= more
    return behind


def _why_stuck(operation: Operation, store: Any) -> str | None:
    if "compensation" not in operation:
        known = getattr(store, "compensable_operations", ())
        if store is None or operation["type"] in known:
            return None
        return "may have to be undone, and its store does not know how"
    undoing = operation["compensation"]
    types = getattr(store, "compensation_types", None)
    if undoing is None:
        return None
    if not isinstance(undoing, Mapping) or not isinstance(undoing.get("type"), str):
        return f"has the compensation {undoing!r}, which has no 'type'"
    if types is not None and undoing["type"] not in types:
        shown = ", ".join(f"'{type}'" for type in sorted(types))
        return f"is undone by '{undoing['type']}', and its store has only {shown}"
    return None
