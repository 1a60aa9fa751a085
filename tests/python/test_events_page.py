"""docs/how-to/events.md is true: its program prints what it says, and every method is on it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from unanimity import InProcessEventBus

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "events.md").read_text()


def test_its_program_runs_and_prints_what_is_shown(tmp_path: Path) -> None:
    ((program, shown),) = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.S)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)


def test_every_method_is_on_it() -> None:
    public = {name for name in dir(InProcessEventBus) if not name.startswith("_")}
    missing = [name for name in sorted(public - {"start"}) if f"{name}" not in TEXT]
    assert missing == []
