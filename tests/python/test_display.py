"""Text and HTML: aligned, escaped, without anything that acts."""

from __future__ import annotations

import html.parser
from typing import Any

import pytest

from engine_rows import row, store_row
from unanimity import (
    CoordinationRecord,
    CoordinationResult,
    History,
    RecoveryReport,
    TransactionState,
)
from unanimity._display import plain, text_table

EVIL = "<script>alert('x')</script>\x1b[31m\r\n\u202e\"&"


class Tags(html.parser.HTMLParser):
    """Collects the tags and attributes, and sees that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            # A picture is in the page itself; as an image it cannot run anything.
            source = dict(attrs)["src"]
            assert source is not None and source.startswith("data:image/svg+xml;base64,")
        else:
            self.open.append(tag)
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def evil_record() -> CoordinationRecord:
    operation = {"store": EVIL, "type": EVIL, "key": EVIL, "operation_id": EVIL}
    return CoordinationRecord.from_engine(
        row(
            coordination_id=EVIL,
            participating_stores=[EVIL],
            operations=[operation],
            owner=EVIL,
            reason={"code": EVIL, "message": EVIL},
            error_message=EVIL,
            stores=[store_row(EVIL, vote=EVIL, note=EVIL)],
        )
    )


def evil_objects() -> list[Any]:
    result = CoordinationResult(EVIL, False, TransactionState.FAILED, EVIL, 1, [EVIL], 0, 1, EVIL)
    report = RecoveryReport(committed=[EVIL])
    return [result, evil_record(), History([evil_record()]), report]


@pytest.mark.parametrize("index", range(4))
def test_html_is_closed_escaped_and_has_no_script(index: int) -> None:
    html = evil_objects()[index]._repr_html_()
    tags = Tags(html)
    assert tags.open == []
    text = {"div", "style", "table", "thead", "tbody", "tr", "th", "td", "span"}
    assert tags.seen <= {*text, "img"}
    assert tags.attributes <= {"class", *(("alt", "src") if "img" in tags.seen else ())}
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "prefers-color-scheme:dark" in html
    assert "\x1b" not in html and "\u202e" not in html


@pytest.mark.parametrize("index", [1, 2])
def test_text_cannot_move_the_cursor_or_turn_the_line(index: int) -> None:
    text = str(evil_objects()[index])
    assert not {"\x1b", "\r", "\u202e"} & set(text)
    assert "<script>" in text


def test_plain_keeps_words_of_every_script() -> None:
    assert plain("naïve 漢字\tx\n") == "naïve 漢字 x "
    assert plain(None) == "-"
    assert plain(3.5) == "3.5"


def test_tables_line_up_with_wide_characters_and_numbers_to_the_right() -> None:
    table = text_table(("name", "count"), [("漢字漢字", 5), ("ab", 12345), ("é", 1)])
    assert table.splitlines() == [
        "name      count",
        "────────  ─────",
        "漢字漢字      5",
        "ab        12345",
        "é             1",
    ]


def test_an_empty_table_has_its_headers() -> None:
    assert text_table(("a", "b"), []).splitlines()[0] == "a  b"
    assert str(History([])) == "no coordinations"


def test_a_record_as_text_names_stores_votes_and_timeline() -> None:
    text = str(CoordinationRecord.from_engine(row()))
    for word in ("t1", "committed", "left", "right", "COMMIT", "acknowledged commit", "t1:1"):
        assert word in text


def test_a_long_history_does_not_flood_the_prompt() -> None:
    record = CoordinationRecord.from_engine(row())
    assert repr(History([record] * 51)) == "History(51 coordinations)"
    assert repr(History([record] * 2)).count("t1") == 2
