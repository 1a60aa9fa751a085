"""scaling.md: its program prints what it says, its table is what the simulation gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from page_programs import programs_of, run_program

ROOT = Path(__file__).parents[2]
TEXT = next((ROOT / "docs").rglob("scaling.md")).read_text()
_SIMULATION = ["--count", "20000", "--leader-us", "100", "--follower-us", "40"]


def test_its_program_prints_what_is_shown(tmp_path: Path) -> None:
    ((program, shown),) = programs_of(TEXT)
    done = run_program(program, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)


def test_the_simulation_gives_the_table_that_is_shown() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benches" / "sharding.py"), *_SIMULATION],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.partition("\n\n")[2] in TEXT


def test_it_refuses_fewer_nodes_than_copies() -> None:
    script = str(ROOT / "benches" / "sharding.py")
    done = subprocess.run(
        [sys.executable, script, "--nodes", "2"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "give at least 3" in done.stderr
