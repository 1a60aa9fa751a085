"""docs/how-to/events.md is true: its program prints what it says, and every method is on it."""

from __future__ import annotations

from pathlib import Path

from page_programs import programs_of, run_program
from unanimity import InProcessEventBus

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "events.md").read_text()


def test_its_program_runs_and_prints_what_is_shown(tmp_path: Path) -> None:
    ((program, shown),) = programs_of(TEXT)
    done = run_program(program, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)


def test_every_method_is_on_it() -> None:
    public = {name for name in dir(InProcessEventBus) if not name.startswith("_")}
    missing = [name for name in sorted(public - {"start"}) if f"{name}" not in TEXT]
    assert missing == []
