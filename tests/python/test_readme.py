"""The README is true: its programs run and print what it says, its commands and links exist."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from page_programs import run_program
from unanimity.cli.parser import build_parser

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
# A program, and the output that the next block shows for it.
PROGRAMS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", TEXT, re.S)
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()
]
INLINE = [code for code in re.findall(r"`([^`\n]+)`", TEXT) if code.startswith(("make ", "unan"))]


@pytest.mark.parametrize("index", range(len(PROGRAMS)))
def test_every_program_runs_and_prints_what_is_shown(index: int, tmp_path: Path) -> None:
    program, shown = PROGRAMS[index]
    done = run_program(program, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == shown


def test_there_is_something_to_check() -> None:
    assert len(PROGRAMS) >= 3
    assert all(shown for _, shown in PROGRAMS)
    assert COMMANDS[:2] == ["make demo", "make test"]


def verbs() -> dict[str, argparse.ArgumentParser]:
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("the parser has no verbs")


@pytest.mark.parametrize("command", sorted({*COMMANDS, *INLINE}))
def test_every_command_exists(command: str) -> None:
    tool, _, rest = command.partition(" ")
    word = rest.split()[0] if rest else ""
    if tool == "make":
        targets = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M)
        assert word in targets
    elif tool == "unanimity":
        assert word in verbs()
        known = {name for action in verbs()[word]._actions for name in action.option_strings}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known
    else:
        assert command in ("unanimity.db", "unanimity.stores")


def test_every_verb_is_shown() -> None:
    shown = " ".join([*COMMANDS, *INLINE])
    assert [verb for verb in verbs() if f"unanimity {verb}" not in shown] == []


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", TEXT))))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
