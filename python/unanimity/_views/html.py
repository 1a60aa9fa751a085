"""A view for notebooks: one small piece of HTML with its own style.

No scripts, no links, no outside resources; pictures are embedded as images, which cannot run
anything. Invariants: text that users or stores wrote is escaped; a long text is folded, not cut;
colours follow the page: light, dark by the reader's wish, or dark by the notebook's theme.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from datetime import timedelta
from html import escape

from .model import Facts, Lanes, Section, State, Steps, Table, View, Waits
from .words import count_of, plain

_LIGHT = "--good:#1a7f37;--bad:#c02a2a;--open:#8a5d00;--line:rgba(128,128,128,.35)"
_DARK = "--good:#5fd07a;--bad:#ff8a80;--open:#e3b341;--line:rgba(160,160,160,.3)"
_THEME = (
    f".unanimity{{{_LIGHT}}}"
    f"@media(prefers-color-scheme:dark){{.unanimity{{{_DARK}}}}}"
    # Notebooks have a theme of their own, whatever the reader's system prefers.
    f"[data-jp-theme-light=true] .unanimity,.vscode-light .unanimity{{{_LIGHT}}}"
    f"[data-jp-theme-light=false] .unanimity,.vscode-dark .unanimity{{{_DARK}}}"
)
STYLE = (
    f"<style>{_THEME}"
    ".unanimity{font:13px/1.4 system-ui,sans-serif;color:inherit;overflow-x:auto;max-width:100%}"
    ".unanimity table{border-collapse:collapse;margin:.4em 0 .8em;font:inherit;border:0}"
    ".unanimity td,.unanimity th{padding:.2em .9em .2em 0;text-align:left;vertical-align:top;"
    "color:inherit;border:0;border-bottom:1px solid var(--line);white-space:normal;"
    "overflow-wrap:anywhere;max-width:38em}"
    ".unanimity th{font-weight:600;white-space:nowrap}"
    ".unanimity .no,.unanimity .at{white-space:nowrap;font-variant-numeric:tabular-nums}"
    ".unanimity .no{text-align:right}"
    ".unanimity .title{font-weight:600;margin-top:.6em;overflow-wrap:anywhere}"
    ".unanimity .name{opacity:.7;white-space:nowrap}"
    ".unanimity .good{color:var(--good)}.unanimity .bad{color:var(--bad)}"
    ".unanimity .open{color:var(--open)}"
    ".unanimity summary{cursor:pointer;overflow-wrap:anywhere}"
    ".unanimity img{max-width:100%;height:auto;display:block;margin:.4em 0 .8em}</style>"
)
# More than that is folded under its beginning.
_SHOWN_CHARACTERS = 200
# A page holds no more of it; text, JSON and frames hold the whole.
_ROWS_MAX = 500
_PICTURE_BOXES_MAX = 150
# What a picture is, for who cannot see it; the tables beside it say what is in it.
_SAYS: dict[type[Section], str] = {
    Lanes: "what each store did when",
    Steps: "the steps and the path taken",
    Waits: "who waits for whom",
}
_FOLD_CHARACTERS = 100
_UNBROKEN_CHARACTERS = 28


def html_of(view: View) -> str:
    """Everything that is shown, as one element; a picture alone is just an image."""
    if not view.title and len(view.sections) == 1 and view.sections[0] is view.picture():
        return _section(view.sections[0])
    return card(_heading(view.title) + "".join(_section(section) for section in view.sections))


def _heading(title: str) -> str:
    return f'<div class="title">{escape(plain(title))}</div>' if title else ""


def card(content: str) -> str:
    """The element around what is shown already as HTML, with the style."""
    return f'<div class="unanimity">{STYLE}{content}</div>'


def _section(section: Section) -> str:
    if isinstance(section, Facts):
        return _facts(section.rows)
    if isinstance(section, Table):
        if not section.rows:
            return f"<div>{escape(section.empty)}</div>" if section.empty else ""
        return _heading(section.title) + html_table(section.columns, section.rows)
    boxes = _boxes(section)
    if boxes > _PICTURE_BOXES_MAX:
        return f"<div>a picture of {boxes} boxes is left out; to_svg() draws it</div>"
    from .svg import svg_of_picture

    return image(svg_of_picture(section), _SAYS[type(section)])


def _boxes(section: Lanes | Waits | Steps) -> int:
    """How much there is to be drawn."""
    if isinstance(section, Lanes):
        return sum(len(lane.spans) for lane in section.lanes)
    if isinstance(section, Steps):
        return len(section.operations)
    return len({*section.waits, *(one for others in section.waits.values() for one in others)})


def image(svg: str, says: str) -> str:
    """A drawing inside of a page: its styles stay with it, and nothing in it could run."""
    data = b64encode(svg.encode()).decode()
    return f'<img alt="{escape(says)}" src="data:image/svg+xml;base64,{data}">'


def _facts(rows: Iterable[tuple[str, object]]) -> str:
    body = "".join(
        f'<tr><td class="name">{escape(plain(name))}</td><td>{_words(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table><tbody>{body}</tbody></table>"


def html_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with every cell escaped."""
    known = list(rows)
    table = known[:_ROWS_MAX]
    kinds = [_kind([row[column] for row in table]) for column in range(len(headers))]
    head = "".join(
        f"<th{kind}>{escape(plain(header))}</th>"
        for header, kind in zip(headers, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{_words(c)}</td>" for c, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in table
    )
    left_out = len(known) - len(table)
    more = f"<div>and {count_of(left_out, 'row')} more</div>" if left_out else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _kind(column: Sequence[object]) -> str:
    """The class of a column: numbers stand to the right, and what is short is not broken."""
    if column and all(isinstance(cell, (int, float, timedelta)) for cell in column):
        return ' class="no"'
    is_short = all(len(plain(cell)) <= _UNBROKEN_CHARACTERS for cell in column)
    return ' class="at"' if is_short else ""


def _words(cell: object) -> str:
    text = plain(cell)
    if len(text) > _SHOWN_CHARACTERS:
        begin, size = escape(text[:_FOLD_CHARACTERS]), count_of(len(text), "character")
        return f"<details><summary>{begin}… ({size})</summary>{escape(text)}</details>"
    tone = cell.tone if isinstance(cell, State) else ""
    return f'<span class="{tone}">{escape(text)}</span>' if tone else escape(text)
