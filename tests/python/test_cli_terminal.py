"""The command line in a terminal and in a pipe: colours, drawing, interrupts, readers that leave.

The terminal is a real one (a pseudo-terminal); what it shows is read as it comes.
"""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli_journals import PROGRAM, environment, run, write_story

_PATIENCE = 60.0
_COLOUR = "\x1b["


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_story(tmp_path_factory.mktemp("story") / "journal.db"))


class Terminal:
    """A command whose input and output are a terminal."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self._own, other = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            env=environment(**variables),
            start_new_session=True,
        )
        os.close(other)

    def read_until(self, words: str) -> None:
        """Read what it shows until these words are there."""
        deadline = time.monotonic() + _PATIENCE
        while words not in self.text:
            assert time.monotonic() < deadline, self.text
            assert self._read(), f"it ended without {words!r}: {self.text!r}"

    def read_all(self) -> tuple[int, str]:
        """Read to the end; its exit code and everything that it showed."""
        while self._read():
            pass
        return self.process.wait(_PATIENCE), self.text.replace("\r\n", "\n")

    def _read(self) -> bool:
        ready, _, _ = select.select([self._own], [], [], _PATIENCE)
        assert ready, f"it shows nothing more, and does not end: {self.text!r}"
        try:
            content = os.read(self._own, 65536)
        except OSError:
            # So a terminal says that nobody writes to it any more.
            return False
        self.text += content.decode(errors="replace")
        return bool(content)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._own)


@contextmanager
def terminal(*arguments: str, **variables: str) -> Iterator[Terminal]:
    """Run a command in a terminal, and end it in any case."""
    made = Terminal(*arguments, **variables)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("verb", ["list", "stuck", "status"])
def test_a_terminal_has_colours_and_a_pipe_has_the_same_text_without(
    verb: str, journal: str
) -> None:
    with terminal(verb, "--journal", journal) as shown:
        _, text = shown.read_all()
    piped = run(verb, "--journal", journal).stdout
    assert _COLOUR not in piped
    assert _COLOUR in text or verb == "status"
    import re

    assert re.sub(r"\x1b\[\d+m", "", text) == piped


def test_no_color_and_dumb_terminals_are_plain_and_force_color_is_not(journal: str) -> None:
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}):
        with terminal("stuck", "--journal", journal, **variables) as shown:
            assert _COLOUR not in shown.read_all()[1], variables
    assert _COLOUR in run("stuck", "--journal", journal, FORCE_COLOR="1").stdout
    assert _COLOUR not in run("stuck", "--journal", journal, FORCE_COLOR="").stdout
    # A document for programs has none, whoever reads it.
    document = run("stuck", "--journal", journal, "--json", FORCE_COLOR="1").stdout
    assert json.loads(document) and _COLOUR not in document


def test_top_draws_again_and_again_until_it_is_interrupted(journal: str) -> None:
    with terminal("top", "--interval", "0.05", "--journal", journal) as shown:
        shown.read_until("orphaned:")
        drawn = shown.text.count("\x1b[H\x1b[J")
        while shown.text.count("\x1b[H\x1b[J") < drawn + 3:
            assert shown._read()
        shown.process.send_signal(signal.SIGINT)
        code, text = shown.read_all()
    assert code == 130
    assert "Traceback" not in text


def test_top_in_a_pipe_and_with_once_is_one_look(journal: str) -> None:
    piped = run("top", "--journal", journal)
    assert (piped.returncode, piped.stderr) == (0, "")
    assert "\x1b" not in piped.stdout and "orphan" in piped.stdout
    with terminal("top", "--once", "--journal", journal, NO_COLOR="1") as shown:
        code, text = shown.read_all()
    assert code == 0 and "\x1b" not in text and "orphan" in text


@pytest.mark.parametrize("verb", [["events", "tail", "--follow"], ["top"]])
def test_ctrl_c_is_130_and_one_line(verb: list[str], journal: str) -> None:
    with terminal(*verb, "--journal", journal) as shown:
        shown.read_until("s0" if verb[0] == "events" else "orphan")
        # As a terminal sends it: to the whole group.
        os.killpg(shown.process.pid, signal.SIGINT)
        code, text = shown.read_all()
    assert code == 130
    assert text.rstrip().endswith("unanimity: interrupted") and "Traceback" not in text


@pytest.mark.parametrize(
    "arguments", [["list"], ["export"], ["export", "--json"], ["events", "tail", "--follow"]]
)
def test_a_reader_that_leaves_is_no_trouble(arguments: list[str], journal: str) -> None:
    reading, writing = os.pipe()
    # Gone before the first word.
    os.close(reading)
    done = subprocess.Popen(
        [*PROGRAM, *arguments, "--journal", journal],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    os.close(writing)
    _, err = done.communicate(timeout=_PATIENCE)
    assert (done.returncode, err) == (1, "")


def test_gc_shows_its_progress_on_a_terminal_and_nothing_of_it_in_a_pipe(
    journal: str, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(Path(journal).parent, tmp_path / "copy")
    copy = str(tmp_path / "copy" / "journal.db")
    with terminal("gc", "--older-than", "0", "--journal", copy) as shown:
        code, text = shown.read_all()
    assert code == 0 and "removing" in text and "█" in text
    piped = run("gc", "--older-than", "0", "--journal", journal, "--dry-run")
    assert (piped.returncode, piped.stderr) == (0, "")
