"""A view's picture as one SVG document: lanes of time are drawn here, graphs by the engine.

No scripts, no links, no outside resources. Invariants: what a colour says stands there in words
too; text is escaped and harmless; colours follow the reader's light or dark page; nothing overlaps,
because words stand beside the axis and not on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape

from .graphs import draw_waits
from .model import Lane, Lanes, Picture, Span, Steps, View
from .words import duration, plain, shortened, text_width

_AXIS = 520.0
_MARGIN = 24.0
_HEAD = 86.0
_ROW = 20.0
_BAR = 12.0
_GAP = 10.0
_SPAN_MIN = 3.0
_LEGEND = 40.0
_WIDTH_MIN = 420.0
_NAME_CHARACTERS_MAX = 28
_WORDS_CHARACTERS_MAX = 60
# The advance of a character of a monospaced font, at 15 (bold), 13, 12 and 11 pixels.
_TITLE_ADVANCE, _NAME_ADVANCE, _NOTE_ADVANCE, _WORD_ADVANCE = 9.2, 7.9, 7.3, 6.7

# In the order of the legend.
_PHASES = {
    "begin": "begin",
    "prepare": "prepare",
    "wait": "waits",
    "decide": "decision",
    "commit": "commit",
    "abort": "abort",
    "execute": "step",
    "fail": "failed step",
    "compensate": "compensation",
}
# Plain colours, no variables: several viewers of SVG know none.
_COLOURS = {
    "begin": ("#8c959f", "#7d8590"),
    "prepare": ("#3b64c4", "#8fb1ff"),
    "wait": ("#afb8c1", "#484f58"),
    "decide": ("#8250df", "#c297ff"),
    "commit": ("#1a7f37", "#5fd07a"),
    "abort": ("#c02a2a", "#ff8a80"),
    "execute": ("#1a7f37", "#5fd07a"),
    "fail": ("#c02a2a", "#ff8a80"),
    "compensate": ("#b35900", "#f0a35e"),
}
_STYLE = (
    "<style>text{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}"
    ".page{fill:#ffffff}.title{font-size:15px;font-weight:bold;fill:#1f2328}"
    ".note{font-size:12px;fill:#59636e}.name{font-size:13px;fill:#1f2328}"
    ".word{font-size:11px;fill:#59636e}.grid{stroke:#d1d9e0}"
    + "".join(f".{phase}{{fill:{light}}}" for phase, (light, _) in _COLOURS.items())
    + "@media(prefers-color-scheme:dark){.page{fill:#0d1117}.title,.name{fill:#e6edf3}"
    ".note,.word{fill:#9198a1}.grid{stroke:#30363d}"
    + "".join(f".{phase}{{fill:{dark}}}" for phase, (_, dark) in _COLOURS.items())
    + "}</style>"
)


def svg_of(view: View) -> str | None:
    """The picture of a view as a document; None where there is nothing to draw."""
    picture = view.picture()
    return None if picture is None else svg_of_picture(picture)


def svg_of_picture(picture: Picture) -> str:
    """One picture as a document."""
    if isinstance(picture, Lanes):
        return _Drawing(picture).svg()
    if isinstance(picture, Steps):
        from .. import _saga_picture

        return _saga_picture.svg(picture.coordination_id, picture.operations, picture.record)
    return draw_waits(picture.waits, picture.wants, "svg")


@dataclass(frozen=True)
class _Row:
    """A lane with its spans in rows, so that none covers another."""

    lane: Lane
    rows: Sequence[Sequence[Span]]

    @property
    def height(self) -> float:
        return max(1, len(self.rows)) * _ROW


def _safe(text: str) -> str:
    return escape(plain(text))


class _Drawing:
    """Where everything stands."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._whole = max(lanes.end - lanes.begin, timedelta(microseconds=1))
        self._rows = [_Row(lane, _in_rows(lane.spans, lanes.end)) for lane in lanes.lanes]
        names = [shortened(plain(lane.name), _NAME_CHARACTERS_MAX) for lane in lanes.lanes]
        words = [shortened(plain(lane.words), _WORDS_CHARACTERS_MAX) for lane in lanes.lanes]
        self._names, self._words = names, words
        self._left = _MARGIN + _widest(names, _NAME_ADVANCE) + 16
        self._right = self._left + _AXIS + 16
        self._width = max(self._right + _widest(words, _WORD_ADVANCE) + _MARGIN, _WIDTH_MIN)
        body = sum(row.height + _GAP for row in self._rows)
        self._bottom = _HEAD + body
        self._height = self._bottom + _LEGEND + _MARGIN / 2

    def svg(self) -> str:
        """The whole document."""
        width, height = f"{self._width:.0f}", f"{self._height:.0f}"
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{_safe(shortened(self._lanes.title, 200))}">{_STYLE}'
            '<rect class="page" width="100%" height="100%"/>',
            *self._head(),
            *self._axis(),
            *self._body(),
            *self._legend(),
        ]
        return "\n".join([*parts, "</svg>\n"])

    def _head(self) -> Iterable[str]:
        lines = (
            (self._lanes.title, "title", 32, _TITLE_ADVANCE),
            (self._lanes.note, "note", 52, _NOTE_ADVANCE),
        )
        for text, kind, y, advance in lines:
            most = int((self._width - 2 * _MARGIN) / advance)
            shown = _safe(shortened(plain(text), most))
            yield f'<text class="{kind}" x="{_MARGIN:.0f}" y="{y}">{shown}</text>'

    def _axis(self) -> Iterable[str]:
        """A line at each round time, which stands above it."""
        for at in _ticks(self._whole):
            x = self._left + at / self._whole * _AXIS
            yield (
                f'<line class="grid" x1="{x:.1f}" y1="{_HEAD - 2:.0f}" x2="{x:.1f}" '
                f'y2="{self._bottom:.0f}"/><text class="word" text-anchor="middle" '
                f'x="{x:.1f}" y="{_HEAD - 7:.0f}">{duration(at) if at else "0"}</text>'
            )

    def _body(self) -> Iterable[str]:
        y = _HEAD + _GAP / 2
        for row, name, words in zip(self._rows, self._names, self._words, strict=True):
            middle = y + row.height / 2 + 4
            yield (
                f"<g><title>{_safe(row.lane.name)}: {_safe(row.lane.words)}</title>"
                f'<text class="name" x="{_MARGIN:.0f}" y="{middle:.1f}">{_safe(name)}</text>'
                f'<text class="word" x="{self._right:.1f}" y="{middle:.1f}">{_safe(words)}</text>'
                "</g>"
            )
            for index, spans in enumerate(row.rows):
                yield from (self._span(span, y + index * _ROW) for span in spans)
            y += row.height + _GAP

    def _span(self, span: Span, y: float) -> str:
        end = self._lanes.end if span.end is None else span.end
        x = self._left + (span.begin - self._lanes.begin) / self._whole * _AXIS
        width = max((end - span.begin) / self._whole * _AXIS, _SPAN_MIN)
        x = min(max(x, self._left), self._left + _AXIS - width)
        thin = span.phase == "wait"
        height = 3.0 if thin else _BAR
        top = y + (_ROW - height) / 2
        took = duration(end - span.begin) + ("" if span.end is not None else " so far")
        return (
            f'<rect class="{span.phase}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" rx="{1.5 if thin else 2.5}"><title>{_safe(span.label)}, '
            f"{took}</title></rect>"
        )

    def _legend(self) -> Iterable[str]:
        used = {span.phase for lane in self._lanes.lanes for span in lane.spans}
        x, y = _MARGIN, self._bottom + 26
        for phase, words in _PHASES.items():
            if phase in used:
                yield (
                    f'<rect class="{phase}" x="{x:.0f}" y="{y - 9:.0f}" width="12" height="10" '
                    f'rx="2"/><text class="word" x="{x + 18:.0f}" y="{y:.0f}">{words}</text>'
                )
                x += 18 + len(words) * _WORD_ADVANCE + 22


def _widest(texts: Iterable[str], advance: float) -> float:
    return max((text_width(text) for text in texts), default=0) * advance


def _in_rows(spans: Sequence[Span], end: datetime) -> list[list[Span]]:
    """Each span in the first row in which nothing lies where it lies."""
    rows: list[list[Span]] = []
    free_from: list[datetime] = []
    for span in sorted(spans, key=lambda span: span.begin):
        at = next((i for i, free in enumerate(free_from) if free <= span.begin), len(rows))
        if at == len(rows):
            rows.append([])
            free_from.append(span.begin)
        rows[at].append(span)
        free_from[at] = end if span.end is None else span.end
    return rows


def _ticks(whole: timedelta) -> list[timedelta]:
    """Round times from nothing to the end, at most six of them."""
    micros = whole / timedelta(microseconds=1)
    step = 1.0
    while micros / step > 5:
        # 1, 2, 5, 10 and so on.
        step *= 2.5 if f"{step:e}".startswith("2") else 2
    count = int(micros / step) + 1
    return [timedelta(microseconds=step * index) for index in range(count)]
