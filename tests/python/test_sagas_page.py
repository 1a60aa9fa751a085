"""sagas.md is true: its program prints what it says; the example books what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from page_programs import programs_of, run_program
from unanimity import Saga

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "how-to" / "sagas.md").read_text()


def test_its_program_runs_and_prints_what_is_shown(tmp_path: Path) -> None:
    ((program, shown),) = programs_of(TEXT)
    done = run_program(program, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)


def test_every_method_of_a_saga_is_on_it() -> None:
    public = {name for name in dir(Saga) if not name.startswith("_")}
    # What these do is in the words around them.
    hidden = {"check", "request", "operations"}
    assert [name for name in sorted(public - hidden) if f"saga.{name}(" not in TEXT.lower()] == []


def test_the_trip_booking_example_keeps_all_of_a_trip_or_nothing_of_it(tmp_path: Path) -> None:
    for letters in ("['bob: seat 1, room 101']", "[]"):
        done = subprocess.run(
            [
                *(sys.executable, "-W", "error"),
                str(ROOT / "examples" / "trip_booking.py"),
                str(tmp_path / "w"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "trip-1: 4 steps, aborted" in done.stdout
        assert "the card is declined" in done.stdout
        assert "all 1 places are taken" in done.stdout
        assert "completed, 2 tries" in done.stdout
        # The second run finds everything booked, and writes no second letter.
        assert done.stdout.endswith(f"letters: {letters}\n")
        assert "flights: ['bob'], rooms: ['bob']" in done.stdout
    for number in (1, 2, 3):
        drawing = ElementTree.parse(tmp_path / "w" / f"trip-{number}.svg").getroot()
        assert drawing.tag.endswith("svg")
