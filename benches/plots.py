"""A picture of rates: for each number of callers a bar of each subject, on a logarithmic scale.

Plain SVG without scripts, fonts or colours of its own where the page has some: it is read on light
and dark pages. Nothing is measured or judged here.

Invariant: the same cells give the same picture, to the byte.
"""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from summary import Cell

_BAR, _GAP, _LEFT, _WIDTH, _TOP = 15, 10, 270, 860, 30
_COLOURS = ("#2f6fb0", "#a8a29a", "#c2a25a", "#8f7aa8", "#7a9a7e", "#b07f78")
_STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:14px;font-weight:600}"
    ".rule{stroke:#9996}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>"
)


def plot(title: str, cells: list[Cell]) -> str:
    """Draw cells that have a rate.

    Args:
        title: what stands above.
        cells: in the order of callers.

    Returns:
        an SVG document.
    """
    subjects = list(dict.fromkeys(cell.subject for cell in cells))
    low, high = _decades([cell.figures["rate"].median for cell in cells])
    drawn, y, last = [], _TOP, cells[0].callers
    for cell in cells:
        y += _GAP if cell.callers != last else 0
        drawn.append(_bar(cell, y, low, high, _COLOURS[subjects.index(cell.subject) % 6]))
        y, last = y + _BAR + 3, cell.callers
    body = _rules(low, high, y) + "".join(drawn)
    return _document(title, f"{title}, per second", y + 24, body)


def _document(title: str, head: str, height: float, body: str) -> str:
    label = escape(title, {'"': "&quot;"})
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{label}">{_STYLE}<text class="title" x="4" y="18">{escape(head)}</text>'
        f"{body}</svg>\n"
    )


def _decades(rates: list[float]) -> tuple[float, float]:
    """The powers of ten around some rates."""
    return 10 ** math.floor(math.log10(min(rates))), 10 ** math.ceil(math.log10(max(rates)))


def _part(rate: float, low: float, high: float) -> float:
    """How far it is from the low end of a logarithmic scale to the high one, 0 to 1."""
    return (math.log10(rate) - math.log10(low)) / (math.log10(high) - math.log10(low))


def _x(rate: float, low: float, high: float) -> float:
    return _LEFT + _part(rate, low, high) * (_WIDTH - _LEFT - 70)


def _bar(cell: Cell, y: float, low: float, high: float, colour: str) -> str:
    rate = cell.figures["rate"]
    end, middle = _x(rate.median, low, high), y + _BAR / 2
    name = escape(f"{cell.subject}, {cell.callers}")
    least, greatest = _x(max(rate.least, low), low, high), _x(min(rate.greatest, high), low, high)
    return (
        f'<text x="{_LEFT - 6}" y="{y + 12}" text-anchor="end">{name}</text>'
        f'<rect x="{_LEFT}" y="{y}" width="{end - _LEFT:.1f}" height="{_BAR}" fill="{colour}"/>'
        f'<line x1="{least:.1f}" x2="{greatest:.1f}" y1="{middle}" y2="{middle}" stroke="#0008"/>'
        f'<text x="{max(end, greatest) + 5:.1f}" y="{y + 12}">{rate.median:,.0f}</text>'
    )


def _rules(low: float, high: float, bottom: float) -> str:
    lines, at = [], low
    while at <= high:
        x = _x(at, low, high)
        lines.append(
            f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{bottom}"/>'
        )
        lines.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{at:,.0f}</text>')
        at *= 10
    return "".join(lines)


def curve(title: str, points: dict[int, float]) -> str:
    """Draw a rate by a quantity, both on logarithmic scales; 0 stands at the left end.

    Args:
        title: what stands above.
        points: the rate at each quantity, in growing order.

    Returns:
        an SVG document.
    """
    left, right, top, bottom = 70.0, 830.0, 40.0, 260.0
    low, high = _decades(list(points.values()))
    most = math.log10(max(*points, 10))

    def x(point: int) -> float:
        return left + (math.log10(point) if point else 0.0) / most * (right - left)

    def y(rate: float) -> float:
        return bottom - _part(rate, low, high) * (bottom - top)

    parts, at = [], low
    while at <= high:
        parts.append(
            f'<line class="rule" x1="{left}" x2="{right}" y1="{y(at):.1f}" y2="{y(at):.1f}"/>'
            f'<text x="{left - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{at:,.0f}</text>'
        )
        at *= 10
    path = " ".join(f"{x(point):.1f},{y(rate):.1f}" for point, rate in points.items())
    parts.append(f'<polyline points="{path}" fill="none" stroke="{_COLOURS[0]}" stroke-width="2"/>')
    for point, rate in points.items():
        across, up = f"{x(point):.1f}", y(rate)
        parts.append(
            f'<circle cx="{across}" cy="{up:.1f}" r="3.5" fill="{_COLOURS[0]}"/>'
            f'<text x="{across}" y="{up - 9:.1f}" text-anchor="middle">{rate:,.0f}</text>'
            f'<text x="{across}" y="{bottom + 18}" text-anchor="middle">{point:,}</text>'
        )
    return _document(title, title, 290, "".join(parts))
