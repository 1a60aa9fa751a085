"""docs/learn is true: its programs, run one after the other in one folder, print what is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from page_programs import programs_of, run_program
from unanimity import CoordinationType

LEARN = Path(__file__).parents[2] / "docs" / "learn"
FIRST = (LEARN / "first-transaction.md").read_text(encoding="utf-8")


def test_every_program_of_the_first_transaction_prints_what_is_shown(tmp_path: Path) -> None:
    programs = programs_of(FIRST)
    assert len(programs) == FIRST.count("```python") == 4
    for program, shown in programs:
        done = run_program(program, tmp_path)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)
    for command in re.findall(r"^unanimity (.*)$", FIRST, re.MULTILINE):
        run = [sys.executable, "-m", "unanimity", *command.split()]
        told = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert (told.returncode, told.stderr) == (0, "")
        assert "order-3" in told.stdout


def test_every_type_has_its_row() -> None:
    text = (LEARN / "which-type.md").read_text(encoding="utf-8")
    assert [kind.name for kind in CoordinationType if f"`{kind.name}`" not in text] == []
