"""How records look: text tables for terminals, small pieces of HTML for notebooks.

No scripts, no links, no outside resources. Invariants: text that users or stores wrote is escaped
in HTML and stripped of control characters in text; colours come from the page, so that dark pages
stay dark.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._explain import CoordinationPlan
    from ._records import CoordinationRecord, History, RecoveryReport
    from ._saga import Saga
    from ._types import CoordinationResult

_STYLE = (
    "<style>.unanimity{font:13px system-ui,sans-serif;color:inherit}"
    ".unanimity table{border-collapse:collapse;margin:.4em 0}"
    ".unanimity td,.unanimity th{padding:.15em .7em;text-align:left;color:inherit;"
    "border-bottom:1px solid rgba(128,128,128,.35)}"
    ".unanimity .good{color:#1a7f37}.unanimity .bad{color:#c02a2a}.unanimity .open{color:#9a6700}"
    "@media(prefers-color-scheme:dark){.unanimity .good{color:#5fd07a}"
    ".unanimity .bad{color:#ff8a80}.unanimity .open{color:#e3b341}}</style>"
)

_GOOD = frozenset({"committed"})
_BAD = frozenset({"failed"})
_OVER = frozenset({"committed", "aborted", "failed"})


def plain(value: object) -> str:
    """One line of text that cannot move a terminal's cursor or colour it."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else str(value)
    return "".join(
        character if unicodedata.category(character)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for character in text.replace("\n", " ").replace("\t", " ")
    )


def moment(value: datetime | None) -> str:
    """A time for people, to the millisecond, in UTC."""
    return "-" if value is None else value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def text_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose columns line up; numbers stand to the right."""
    table = list(rows)
    cells = [[plain(cell) for cell in row] for row in table]
    widths = [
        max([text_width(header), *(text_width(row[column]) for row in cells)])
        for column, header in enumerate(headers)
    ]
    numeric = [
        bool(table) and all(isinstance(row[column], (int, float)) for row in table)
        for column in range(len(headers))
    ]
    lines = [_line(list(headers), widths, numeric), "  ".join("─" * width for width in widths)]
    lines += [_line(row, widths, numeric) for row in cells]
    return "\n".join(lines)


def _line(cells: list[str], widths: list[int], numeric: list[bool]) -> str:
    padded = []
    for cell, width, right in zip(cells, widths, numeric, strict=True):
        space = " " * (width - text_width(cell))
        padded.append(space + cell if right else cell + space)
    return "  ".join(padded).rstrip()


def text_width(text: str) -> int:
    """Columns of a terminal that a line of text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def html_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with every cell escaped."""
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(
        "<tr>" + "".join(f"<td>{_html_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html_cell(cell: object) -> str:
    text = escape(plain(cell))
    return f'<span class="{_tone(cell)}">{text}</span>' if isinstance(cell, _State) else text


class _State(str):
    """A state's name, shown in its colour."""


def _tone(state: str) -> str:
    if state in _GOOD:
        return "good"
    if state in _BAD:
        return "bad"
    return "" if state in _OVER else "open"


def _card(content: str) -> str:
    return f'<div class="unanimity">{_STYLE}{content}</div>'


def result_html(result: CoordinationResult) -> str:
    """A result as a small table."""
    rows: list[tuple[str, Any]] = [
        ("coordination", result.coordination_id),
        ("outcome", result.outcome.value),
        ("state", _State(result.final_state.value)),
        ("stores", ", ".join(map(str, result.participating_stores))),
        ("operations", f"{result.operations_completed} done, {result.operations_failed} not"),
        ("took", f"{result.execution_duration_ms} ms"),
    ]
    if result.error_message:
        rows.append(("message", result.error_message))
    return _card(html_table(("", ""), rows))


_HISTORY = ("id", "state", "type", "stores", "ops", "began", "ms", "message")


def _history_rows(history: Iterable[CoordinationRecord]) -> list[tuple[object, ...]]:
    return [
        (
            record.coordination_id,
            _State(record.state.value),
            record.coordination_type.value,
            ", ".join(record.participating_stores),
            len(record.operations),
            moment(record.created_at),
            None if record.duration is None else round(record.duration.total_seconds() * 1000, 1),
            record.error_message,
        )
        for record in history
    ]


def history_text(history: History) -> str:
    """A history for terminals."""
    return text_table(_HISTORY, _history_rows(history)) if len(history) else "no coordinations"


def history_html(history: History) -> str:
    """A history for notebooks."""
    return _card(html_table(_HISTORY, _history_rows(history)))


def _facts(record: CoordinationRecord) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("coordination", record.coordination_id),
        ("type", record.coordination_type.value),
        ("state", _State(record.state.value)),
        ("decision", record.decision),
        ("began", moment(record.created_at)),
        ("ended", moment(record.completed_at)),
        ("timeout", f"{record.timeout_seconds:g} s, {record.consistency_level}"),
        ("owner", f"{record.owner}, epoch {record.epoch}"),
    ]
    if record.reason:
        facts.append(("reason", f"{record.reason} [{record.reason_code}]"))
    if record.error_message:
        facts.append(("message", record.error_message))
    return facts


_STORES = ("store", "vote", "asked to commit or abort", "acknowledged", "note")
_OPERATIONS = ("operation", "store", "type", "on")
_STEPS = ("step", "state", "tries", "result", "note")
_TIMELINE = ("at", "store", "what")


def _tables(
    record: CoordinationRecord,
) -> list[tuple[str, Sequence[str], list[tuple[object, ...]]]]:
    stores = [
        (s.store, s.vote, f"{s.attempts} times", moment(s.acknowledged_at), s.note)
        for s in record.stores
    ]
    operations = [
        (o.get("operation_id"), o.get("store"), o.get("type"), o.get("resource", o.get("key")))
        for o in record.operations
    ]
    steps = [
        (s.operation_id, s.state, s.attempts, "" if s.result is None else s.result, s.note or "")
        for s in record.steps
    ]
    timeline = [(moment(e.at), e.store or "", e.what) for e in record.timeline()]
    return [
        ("stores", _STORES, list(stores)),
        ("operations", _OPERATIONS, list(operations)),
        ("steps", _STEPS, list(steps)),
        ("timeline", _TIMELINE, list(timeline)),
    ]


def _saga_of(record: CoordinationRecord) -> Saga | None:
    """What can be drawn of it: the steps of a saga."""
    from ._saga import Saga
    from ._types import CoordinationType

    is_saga = record.coordination_type is CoordinationType.SAGA_ORCHESTRATION
    return Saga.of(record) if is_saga else None


def svg_image(svg: str) -> str:
    """A drawing inside of a page, with its styles to itself."""
    from base64 import b64encode

    data = b64encode(svg.encode()).decode()
    return f'<img alt="the steps and the path taken" src="data:image/svg+xml;base64,{data}">'


def record_text(record: CoordinationRecord) -> str:
    """Everything about one coordination, for terminals."""
    parts = ["\n".join(f"{name:<13} {plain(value)}" for name, value in _facts(record))]
    saga = _saga_of(record)
    if saga is not None:
        # Its first line says what stands above already.
        parts.append(saga.to_text(record).partition("\n")[2])
    parts += [text_table(headers, rows) for _, headers, rows in _tables(record) if rows]
    return "\n\n".join(parts)


def record_html(record: CoordinationRecord) -> str:
    """Everything about one coordination, for notebooks."""
    parts = [html_table(("", ""), _facts(record))]
    saga = _saga_of(record)
    if saga is not None:
        parts.append(svg_image(saga.to_svg(record)))
    parts += [html_table(headers, rows) for _, headers, rows in _tables(record) if rows]
    return _card("".join(parts))


_PARTS = ("store", "role", "operations")


def _plan_facts(plan: CoordinationPlan) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("coordination", plan.coordination_id),
        ("plan", plan.plan.replace("_", " ")),
        ("why", plan.why),
    ]
    return [*facts, ("locks", ", ".join(plan.locks))] if plan.locks else facts


def plan_text(plan: CoordinationPlan) -> str:
    """A plan for terminals."""
    facts = "\n".join(f"{name:<14}{plain(value)}" for name, value in _plan_facts(plan))
    parts = [(part.store, part.role, part.operations) for part in plan.stores]
    return f"{facts}\n\n{text_table(_PARTS, parts)}"


def plan_html(plan: CoordinationPlan) -> str:
    """A plan for notebooks."""
    parts = [(part.store, part.role, part.operations) for part in plan.stores]
    return _card(html_table(("", ""), _plan_facts(plan)) + html_table(_PARTS, parts))


def report_html(report: RecoveryReport) -> str:
    """A recovery report for notebooks."""
    rows = [(name, len(ids), ", ".join(ids[:5])) for name, ids in vars(report).items()]
    return _card(html_table(("", "how many", "the first of them"), rows))
