"""Pictures of a saga: lines with ways between its steps for terminals, SVG for pages.

Not the layout of the SVG: that is the engine's. Invariants: with what `describe` gave, each step
says in words how far it came; text that users wrote cannot move a terminal's cursor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._exceptions import InvalidRequest
from ._saga_check import Operation, in_order, needs
from ._views.graphs import whole
from ._views.words import plain, text_width

_OVER = frozenset({"committed", "aborted"})
_MARKS = {
    None: "●",
    "pending": "○",
    "executing": "◐",
    "completed": "●",
    "failed": "✗",
    "compensating": "◐",
    "compensated": "↺",
    "parked": "■",
}
_PIVOT_MARKS = {"●": "◆", "○": "◇"}
# By which sides of a place a way leaves it: up, down, left, right.
_WAYS = {
    (False, False, False, False): " ",
    (True, True, False, False): "│",
    (False, False, True, True): "─",
    (False, True, False, True): "╭",
    (False, True, True, False): "╮",
    (True, False, False, True): "╰",
    (True, False, True, False): "╯",
    (True, True, False, True): "├",
    (True, True, True, False): "┤",
    (False, True, True, True): "┬",
    (True, False, True, True): "┴",
    (True, True, True, True): "┼",
}


@dataclass(frozen=True)
class _Shown:
    """A step, as it is shown."""

    operation_id: str
    what: str
    undo: str
    state: str | None
    said: tuple[str, ...]
    is_pivot: bool


def text(coordination_id: str, operations: Sequence[Operation], record: Any) -> str:
    """The steps from top to bottom, each below what it needs."""
    shown, note = _shown(coordination_id, operations, record)
    head = f"{plain(coordination_id)}: {plain(note)}"
    rows: list[tuple[str, tuple[str, ...]]] = []
    for way, step in _lines(operations, shown):
        if step is None:
            rows.append((way, ()))
            continue
        mark = _MARKS[step.state]
        mark = _PIVOT_MARKS.get(mark, mark) if step.is_pivot else mark
        cells = (step.operation_id, step.what, step.undo, ": ".join(step.said))
        rows.append((way.replace("*", mark), tuple(plain(cell) for cell in cells)))
    return "\n".join([head, *_aligned(rows)])


def svg(coordination_id: str, operations: Sequence[Operation], record: Any) -> str:
    """The steps from left to right, as one SVG document."""
    from ._engine import draw_steps

    shown, note = _shown(coordination_id, operations, record)
    edges: list[tuple[int, int]] = []
    if _can_be_drawn(operations):
        index = {step.operation_id: at for at, step in enumerate(shown)}
        ways = needs(operations).items()
        edges = [(index[id], index[name]) for name, before in ways for id in before]
    steps = [
        (
            whole(step.operation_id),
            [whole(line) for line in (step.what, step.undo) if line],
            step.state,
            [whole(said) for said in step.said],
            step.is_pivot,
        )
        for step in shown
    ]
    return draw_steps(whole(coordination_id), whole(note), steps, edges)


def _can_be_drawn(operations: Sequence[Operation]) -> bool:
    """Whether there is an order; one that cannot run is shown as it was written, without ways."""
    needed = needs(operations)
    return len(needed) == len(operations) and in_order(needed) is not None


def _lines(
    operations: Sequence[Operation], shown: Sequence[_Shown]
) -> list[tuple[str, _Shown | None]]:
    if not _can_be_drawn(operations):
        return [("*", step) for step in shown]
    by_name = {step.operation_id: step for step in shown}
    ways = _ways(needs(operations))
    return [(way, None if name is None else by_name[name]) for way, name in ways]


def _shown(
    coordination_id: str, operations: Sequence[Operation], record: Any
) -> tuple[list[_Shown], str]:
    count = f"{len(operations)} step" + ("" if len(operations) == 1 else "s")
    if record is None:
        return [_step(operation, None, False) for operation in operations], count
    if record.coordination_id != coordination_id:
        raise InvalidRequest(
            f"this is the saga '{coordination_id}', and the record is of "
            f"'{record.coordination_id}'; give the record of the same one"
        )
    state = getattr(record, "state", None) or record.final_state
    told = {_of(step, "operation_id"): step for step in _steps_of(record, operations, state.value)}
    is_over = state.value in _OVER
    shown = [_step(op, told.get(op["operation_id"]), is_over) for op in operations]
    words = f": {record.error_message}" if record.error_message else ""
    return shown, f"{count}, {state.value}{words}"


def _steps_of(record: Any, operations: Sequence[Operation], state: str) -> Sequence[Any]:
    """What a record tells of each step; a result tells only that all of them are done."""
    steps: Sequence[Any] | None = getattr(record, "steps", None)
    if steps is not None:
        return steps
    done = [{"operation_id": op["operation_id"], "state": "completed"} for op in operations]
    return done if state == "committed" else []


def _of(step: Any, name: str) -> Any:
    return step.get(name) if isinstance(step, Mapping) else getattr(step, name, None)


def _step(operation: Operation, told: Any, is_over: bool) -> _Shown:
    undo = ""
    if operation.get("pivot"):
        undo = "pivot"
    elif "compensation" in operation:
        undoing = operation["compensation"]
        type = undoing.get("type") if isinstance(undoing, Mapping) else undoing
        undo = "nothing to undo" if undoing is None else f"undo: {type}"
    state = None if told is None else getattr(_of(told, "state"), "value", _of(told, "state"))
    return _Shown(
        operation["operation_id"],
        f"{operation['store']}.{operation['type']}",
        undo,
        state if state in _MARKS else None,
        () if state is None else _said(state, told, is_over),
        bool(operation.get("pivot")),
    )


def _said(state: str, told: Any, is_over: bool) -> tuple[str, ...]:
    """A state in words, with its tries and its last trouble where they tell more."""
    if state == "pending":
        return ("never asked" if is_over else "not asked yet",)
    undoing = state in ("compensating", "compensated")
    tries = _of(told, "compensation_attempts" if undoing else "attempts") or 0
    note = _of(told, "note")
    words = state + (f", {tries} tries" if tries > 1 else "")
    return (words, str(note)) if note and state in ("failed", "parked") else (words,)


def _ways(needed: Mapping[str, Sequence[str]]) -> list[tuple[str, str | None]]:
    """Lines of ways, `*` where a step stands, and which step that is."""
    left = {name: sum(name in before for before in needed.values()) for name in needed}
    # The step from which a way comes down in each column, None where there is none.
    columns: list[str | None] = []
    lines: list[tuple[str, str | None]] = []
    for name in in_order(needed) or []:
        before = needed[name]
        for id in before:
            left[id] -= 1
        ends = [columns.index(id) for id in before if not left[id]]
        if not ends and None not in columns:
            columns.append(None)
        own = min(ends) if ends else columns.index(None)
        if before:
            lines.append((_joint(columns, before, left, own), None))
        for column in ends:
            columns[column] = None
        columns[own] = name
        marks = ["*" if at == own else " " if id is None else "│" for at, id in enumerate(columns)]
        lines.append((" ".join(marks).rstrip(), name))
        if not left[name]:
            columns[own] = None
    return lines


def _joint(
    columns: Sequence[str | None], before: Sequence[str], left: Mapping[str, int], own: int
) -> str:
    """The line above a step, which leads the ways of what it needs to it."""
    joined = [*(columns.index(id) for id in before), own]
    first, last = min(joined), max(joined)
    line = ""
    for at, id in enumerate(columns):
        up = id is not None
        if up and at not in joined:
            # The way across passes behind one that has nothing to do with it.
            line += "│"
        else:
            down = at == own or (id is not None and left[id] > 0)
            line += _WAYS[up, down, first < at <= last, first <= at < last]
        line += "─" if first <= at < last else " "
    return line.rstrip()


def _aligned(rows: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    """Ways to the left, then the cells of all rows in columns; empty columns are left out."""
    most = max((len(way) for way, _ in rows), default=0)
    full = [cells for _, cells in rows if cells]
    widths = [max(map(text_width, column)) for column in zip(*full, strict=True)]
    lines = []
    for way, cells in rows:
        line = way.ljust(most)
        for cell, width in zip(cells, widths, strict=False):
            line += "" if not width else "  " + cell + " " * (width - text_width(cell))
        lines.append("  " + line.rstrip())
    return lines
