"""docs/how-to/tracing.md is true: its program prints what it says, every attribute is on it."""

from __future__ import annotations

import re
from pathlib import Path

from page_programs import programs_of, run_program

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "how-to" / "tracing.md").read_text()
FILES = [ROOT / "python" / "unanimity" / name for name in ("_tracing.py", "_spans.py")]
SOURCE = "".join(file.read_text() for file in FILES)


def test_its_program_runs_and_prints_what_is_shown(tmp_path: Path) -> None:
    ((program, shown),) = programs_of(TEXT)
    done = run_program(program, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    # Stores are asked side by side: which of two answers first is chance.
    assert sorted(done.stdout.splitlines()) == sorted(shown.splitlines())


def test_every_attribute_is_on_it() -> None:
    attributes = set(re.findall(r'"((?:unanimity|error|db)\.[a-z_.]+)"', SOURCE))
    attributes -= {"unanimity.stores", "unanimity.tracing"}
    assert "error.type" in attributes
    told = set(re.findall(r"`((?:unanimity|error|db)\.[a-z_.]+)`", TEXT))
    assert attributes == told - {"unanimity.engine", "unanimity.tracing"}
