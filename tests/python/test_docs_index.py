"""The index of the documentation leads to every page, each once, under its own heading."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_HEADINGS = {
    "learn": "Learn",
    "how-to": "How to",
    "reference": "Reference",
    "operate": "Operate",
    "internals": "Internals",
}


def test_every_page_is_in_the_index_under_its_heading() -> None:
    sections = re.split(r"^## ", (DOCS / "README.md").read_text(encoding="utf-8"), flags=re.M)[1:]
    found = {
        section.partition("\n")[0]: sorted(re.findall(r"\]\(([^)]+\.md)\)", section))
        for section in sections
    }
    pages = {
        heading: sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / folder).glob("*.md"))
        for folder, heading in _HEADINGS.items()
    }
    assert found == pages
