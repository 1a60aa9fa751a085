"""A view for terminals: facts one below the other, tables whose columns line up, bars of time.

Invariant: no cell is longer than a table can bear (programs get the whole in JSON) unless its user
says so; facts are whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from .graphs import draw_waits
from .model import Facts, Lanes, Section, Steps, Table, View, Waits
from .words import plain, shortened, text_width

CELL_CHARACTERS_MAX = 160
_WORDS_CHARACTERS_MAX = 80
_BAR_COLUMNS = 48
_BARS = {
    "begin": "░",
    "prepare": "▒",
    "wait": "─",
    "decide": "▓",
    "commit": "█",
    "abort": "█",
    "execute": "█",
    "fail": "▒",
    "compensate": "▒",
}


def text_of(view: View) -> str:
    """Everything that is shown, as lines of text."""
    parts = [_section(section) for section in view.sections]
    return "\n\n".join(part for part in parts if part)


def _section(section: Section) -> str:
    if isinstance(section, Facts):
        return facts_text(section.rows)
    if isinstance(section, Table):
        if not section.rows:
            return section.empty
        return text_table(section.columns, section.rows)
    if isinstance(section, Lanes):
        return _lanes(section)
    if isinstance(section, Waits):
        return draw_waits(section.waits, section.wants, "text")
    return steps_text(section)


def steps_text(steps: Steps) -> str:
    """The steps of a saga from top to bottom, with the ways between them."""
    from .. import _saga_picture

    text = _saga_picture.text(steps.coordination_id, steps.operations, steps.record)
    return text if steps.is_titled else text.partition("\n")[2]


def facts_text(rows: Sequence[tuple[str, object]]) -> str:
    """Names in one column, their values behind them."""
    names = [plain(name) for name, _ in rows]
    width = max(map(text_width, names), default=0)
    lines = [
        f"{name}{' ' * (width - text_width(name))}  {plain(value)}"
        for name, (_, value) in zip(names, rows, strict=True)
    ]
    return "\n".join(lines)


def text_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    characters_max: int | None = CELL_CHARACTERS_MAX,
) -> str:
    """A table whose columns line up; numbers stand to the right.

    `characters_max` bounds a cell; None where people need each word of it.
    """
    table = list(rows)
    cells = [
        [text if characters_max is None else shortened(text, characters_max) for text in texts]
        for texts in (map(plain, row) for row in table)
    ]
    widths = [
        max([text_width(header), *(text_width(row[column]) for row in cells)])
        for column, header in enumerate(headers)
    ]
    numeric = [
        bool(table) and all(isinstance(row[column], (int, float, timedelta)) for row in table)
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


def _lanes(lanes: Lanes) -> str:
    """A bar for each lane over the same time; what came later is written over what came before."""
    rows = []
    for lane in lanes.lanes:
        bar = [" "] * _BAR_COLUMNS
        for span in lane.spans:
            first = _column(lanes, (span.begin - lanes.begin))
            last = _column(lanes, ((span.end or lanes.end) - lanes.begin))
            for at in range(first, max(first, last - 1) + 1):
                bar[at] = _BARS.get(span.phase, "█")
        words = shortened(plain(lane.words), _WORDS_CHARACTERS_MAX)
        rows.append((plain(lane.name), f"│{''.join(bar)}│", words))
    width = max((text_width(name) for name, _, _ in rows), default=0)
    lines = [
        f"  {name}{' ' * (width - text_width(name))}  {bar}  {words}".rstrip()
        for name, bar, words in rows
    ]
    return "\n".join([f"{plain(lanes.title)}: {plain(lanes.note)}", *lines])


def _column(lanes: Lanes, at: timedelta) -> int:
    whole = (lanes.end - lanes.begin) or timedelta(microseconds=1)
    return max(0, min(_BAR_COLUMNS - 1, int(at / whole * _BAR_COLUMNS)))
