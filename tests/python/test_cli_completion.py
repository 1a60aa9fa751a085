"""Completion: what a real shell offers once the script is sourced; that it knows everything."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cli_journals import run
from unanimity.cli.completion import Verb, verbs

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    done = {shell: run("completion", shell) for shell in SHELLS}
    assert all((each.returncode, each.stderr) == (0, "") for each in done.values())
    return {shell: each.stdout for shell, each in done.items()}


def offered(script: str, line: str) -> list[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    ask = (
        f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; "
        '_unanimity; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{ask}"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [word for word in done.stdout.splitlines() if word]


def test_bash_offers_every_verb(scripts: dict[str, str]) -> None:
    names = {verb.name for verb in verbs()}
    assert set(offered(scripts["bash"], "unanimity ")) == {*names, "-h", "--help"}
    assert offered(scripts["bash"], "unanimity do") == ["doctor"]


@pytest.mark.parametrize("verb", verbs(), ids=lambda verb: verb.name)
def test_bash_offers_every_option_of_a_verb(verb: Verb, scripts: dict[str, str]) -> None:
    options = {option for word in verb.options for option in word.options}
    assert set(offered(scripts["bash"], f"unanimity {verb.name} -")) == options
    for word in verb.options:
        if word.values:
            found = offered(scripts["bash"], f"unanimity {verb.name} {word.options[0]} ")
            assert found == word.values


def test_bash_offers_choices_states_and_files(scripts: dict[str, str], tmp_path: Path) -> None:
    bash = scripts["bash"]
    assert offered(bash, "unanimity list --state comm") == ["committing", "committed"]
    assert offered(bash, "unanimity raft st") == ["status"]
    assert offered(bash, "unanimity resolve ID com") == ["commit"]
    folder = str(tmp_path)
    open(f"{folder}/journal.db", "w").close()  # noqa: PTH123
    assert offered(bash, f"unanimity status --journal {folder}/jou") == [f"{folder}/journal.db"]
    assert offered(bash, f"unanimity config check {folder}/jou") == [f"{folder}/journal.db"]
    assert offered(bash, f"unanimity list --limit {folder}/jou") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_knows_every_verb_and_option(shell: str, scripts: dict[str, str]) -> None:
    for verb in verbs():
        assert verb.name in scripts[shell]
        for word in verb.options:
            for option in word.options:
                shown = option if shell != "fish" else f"-l {option[2:]}"
                if shell == "fish" and not option.startswith("--"):
                    shown = f"-s {option[1:]}"
                assert shown in scripts[shell], (verb.name, option)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_that_its_shell_can_read(shell: str, scripts: dict[str, str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [shell, "-n"], input=scripts[shell], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
