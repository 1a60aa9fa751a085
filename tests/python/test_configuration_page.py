"""docs/reference/configuration.md is true: its files are read, its programs print what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from unanimity import CoordinationConfig, _engine

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "configuration.md").read_text()
FIRST, WRONG = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Only what the page sets is set.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("UNANIMITY_")}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=120,
    )


def test_its_programs_run_with_its_file_and_print_what_is_shown(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(FIRST)
    programs = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.S)
    assert len(programs) == 2
    for program, shown in programs:
        done = run(tmp_path, "-c", program)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)
    assert (tmp_path / "shop.db").exists()


def test_what_it_shows_as_wrong_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(WRONG)
    done = run(tmp_path, "-m", "unanimity", "config", "check", "wrong.yaml")
    (shown,) = re.findall(r"    \$ unanimity config check wrong.yaml\n((?:    .*\n)+)", TEXT)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [line[4:] for line in shown.splitlines()]


def test_its_variables_are_variables_of_keys() -> None:
    named = set(re.findall(r"UNANIMITY_[A-Z_]*[A-Z]", TEXT))
    variables = {variable for _, variable in _engine.config_keys()}
    assert named <= variables | {"UNANIMITY_SECRET_FILE"} and len(named) == 2


def test_every_method_is_on_it() -> None:
    public = {name for name in vars(CoordinationConfig) if not name.startswith("_")}
    assert [name for name in sorted(public - {"settings"}) if name not in TEXT] == []
