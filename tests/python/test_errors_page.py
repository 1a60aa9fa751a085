"""The page of error codes has a section for every code in the source, and for no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import unanimity
from unanimity import UnanimityError, _engine

ROOT = Path(__file__).parents[2]
_PAGE = next(ROOT.glob("docs/**/errors.md"))
_FAMILIES = (
    "config consensus events journal lock operation request saga service step store transaction"
)
_CODE = re.compile(rf'"((?:{_FAMILIES.replace(" ", "|")})(?:\.[a-z_]+)+)"')
# Words in the source that look like codes: a file's name, and a suffix of one.
_OTHER = {"journal.db", "step.lua", "step.now"}


def _shipped() -> Iterator[Path]:
    for folder, suffix in (("src", "rs"), ("python/bindings/src", "rs"), ("python", "py")):
        for path in (ROOT / folder).rglob(f"*.{suffix}"):
            inside = path.relative_to(ROOT).as_posix()
            if not re.search(r"(_test|/tests?|test_kit|simulated)\b|/tests/|simulated", inside):
                yield path


def _of_the_source() -> set[str]:
    found = {
        code for path in _shipped() for code in _CODE.findall(path.read_text(encoding="utf-8"))
    }
    settings = {key for key, _ in _engine.config_keys()}
    return found - _OTHER - settings | _of_the_classes()


def _of_the_classes() -> set[str]:
    classes = (getattr(unanimity, name) for name in unanimity.__all__)
    return {
        kind.default_code
        for kind in classes
        if isinstance(kind, type) and issubclass(kind, UnanimityError)
    }


def _of_the_page() -> list[str]:
    return re.findall(r"^### `([a-z_.]+)`$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_code_has_one_section_and_every_section_a_code() -> None:
    sections = _of_the_page()
    assert len(sections) == len(set(sections))
    assert set(sections) == _of_the_source()


def test_no_section_is_empty() -> None:
    text = _PAGE.read_text(encoding="utf-8")
    for section in text.split("\n### ")[1:]:
        body = section.split("\n## ")[0].partition("\n")[2].strip()
        assert len(body.split()) >= 3, section
