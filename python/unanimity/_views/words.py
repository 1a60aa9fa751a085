"""Values in words: one line of text that is harmless wherever it is shown.

Not the escaping of HTML and XML: that is for `html` and `svg`, on top of this. Invariant: what
comes out of `plain` cannot move a cursor, colour it, turn the writing round, or break a line.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime, timedelta


def plain(value: object) -> str:
    """One line of text that cannot move a terminal's cursor or colour it."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, timedelta):
        return duration(value)
    text = value if isinstance(value, str) else str(value)
    return "".join(
        character if unicodedata.category(character)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for character in text.translate(_SPACES)
    )


# Line and paragraph separators are no control characters, and break lines all the same.
_SPACES = dict.fromkeys(map(ord, "\n\t\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}"), " ")


def moment(value: datetime | None) -> str:
    """A time for people, to the millisecond, in UTC."""
    return "-" if value is None else value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def duration(value: timedelta | None) -> str:
    """A length of time for people: "850 µs", "4.2 ms", "1.35 s", "2 min 5 s", "3 h 20 min"."""
    if value is None:
        return "-"
    micros = value // timedelta(microseconds=1)
    if micros < 0:
        return f"-{duration(-value)}"
    if micros < 1_000:
        return f"{micros} µs"
    if micros < 1_000_000:
        return f"{micros / 1_000:.3g} ms" if micros < 999_500 else "1 s"
    if micros < 60_000_000:
        return f"{micros / 1_000_000:.3g} s" if micros < 59_950_000 else "1 min 0 s"
    seconds = round(micros / 1_000_000)
    if seconds < 3_600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3_600} h {seconds % 3_600 // 60} min"


def text_width(text: str) -> int:
    """Columns of a terminal that a line of text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def shortened(text: str, most: int) -> str:
    """A text of at most so many columns: a long one without its middle; both ends tell more."""
    if text_width(text) <= most:
        return text
    tail = (most - 1) // 3
    return f"{_fitting(text, most - 1 - tail)}…{_fitting(text[::-1], tail)[::-1]}"


def _fitting(text: str, most: int) -> str:
    """As much of its beginning as fits into so many columns."""
    # What takes no column follows something that does; a text of nothing else is cut all the same.
    begin = text[: 2 * most]
    while text_width(begin) > most:
        begin = begin[:-1]
    return begin


def count_of(number: int, what: str, many: str | None = None) -> str:
    """A number with its noun: "1 store", "2 stores"."""
    return f"{number} {what}" if number == 1 else f"{number} {many or what + 's'}"
