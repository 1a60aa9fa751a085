"""Every verb, on a good journal and on everything that is none: exit codes, one line, one document.

What each verb tells is tested where it belongs; here stands what holds for all of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli_journals import JOURNAL_VERBS, run, start, write_story
from postgres_cluster import PostgresCluster
from unanimity.cli import main
from unanimity.cli.completion import verbs

# Of the contract; and those that this version has beside.
CONTRACT = (
    *("demo", "status", "list", "show", "locks", "deadlocks", "recover", "resolve"),
    *("dead-letters", "redrive", "events", "raft", "migrate", "config", "node", "bench", "version"),
)
# Verbs that look at no journal of their own, called so that they succeed.
OTHERS: dict[str, list[str]] = {
    "config": ["check", "CONFIG"],
    "demo": ["FOLDER", "--limit", "3"],
    "bench": ["--seconds", "0.05", "--callers", "2"],
    "completion": ["bash"],
    "version": [],
}
ENDS_WITH_1 = {"status", "stuck", "dead-letters", "doctor"}
"""On a journal in which something waits for an operator."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One journal of everything; who changes it takes a copy."""
    return write_story(tmp_path_factory.mktemp("story") / "journal.db")


@pytest.fixture
def journal(story: Path, tmp_path: Path) -> Path:
    return copied(story, tmp_path / "copy")


def copied(journal: Path, folder: Path) -> Path:
    """A closed journal elsewhere, log and all."""
    shutil.copytree(journal.parent, folder, dirs_exist_ok=True)
    return folder / journal.name


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run it in this process: what the process would print, and its exit code."""
    capsys.readouterr()
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = int(str(ended.code))
    return code, *capsys.readouterr()


def told_bad(verb: str, code: int, out: str, err: str) -> str:
    """The one line in which a verb says what is wrong; `doctor` says it in its table."""
    assert code == 1
    assert "Traceback" not in err and "report it" not in err
    if verb == "doctor":
        assert err == "" and out.splitlines()[2].startswith("bad "), out
        return out
    assert out == "" and err.count("\n") == 1 and err.startswith("unanimity: "), (out, err)
    return err


# ---- help ----------------------------------------------------------------------------------------


def test_the_verbs_of_the_contract_are_there() -> None:
    assert set(CONTRACT) <= {verb.name for verb in verbs()}


def test_every_verb_is_called_by_some_test_of_this_file() -> None:
    ways = {*JOURNAL_VERBS, *OTHERS, "deadlocks", "raft", "node"}
    assert {verb.name for verb in verbs()} == ways


@pytest.mark.parametrize("verb", [verb.name for verb in verbs()])
def test_help_of_every_verb_has_an_example_that_can_be_parsed(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, verb, "-h")
    assert (code, err) == (0, "")
    example = out.rpartition("example:\n  unanimity ")[2].strip()
    assert example.startswith(verb) and "\n" not in example
    assert "--json" in out
    import shlex

    from unanimity.cli.parser import build_parser

    assert build_parser().parse_args(shlex.split(example)).verb == verb


# ---- json ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", JOURNAL_VERBS)
def test_json_is_one_document_and_says_what_the_text_says(
    verb: str, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [verb, *JOURNAL_VERBS[verb], "--journal", str(journal)]
    if verb == "recover":
        # The others' stores are not there, so nothing is taken over.
        arguments[2] = f"left=files:{journal.parent / 'left'}"
    code, out, err = call(capsys, *arguments, "--json")
    assert (code, err) == (int(verb in ENDS_WITH_1), ""), out
    document = json.loads(out)
    assert isinstance(document, (dict, list))
    assert document or verb == "locks", "the story holds no locks"
    if verb not in ("recover", "redrive"):
        again, text, _ = call(capsys, *arguments)
        assert again == code and text


@pytest.mark.parametrize("verb", OTHERS)
def test_json_of_verbs_without_a_journal(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "note.txt").write_text("a document\n")
    (tmp_path / "config.yaml").write_text("coordination_service:\n  journal: journal.db\n")
    places = {"CONFIG": str(tmp_path / "config.yaml"), "FOLDER": str(tmp_path)}
    arguments = [places.get(argument, argument) for argument in OTHERS[verb]]
    code, out, err = call(capsys, verb, *arguments, "--json")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out), dict)


# ---- what is no journal --------------------------------------------------------------------------


def _missing(place: Path, story: Path) -> str:
    return str(place / "nothing.db")


def _folder(place: Path, story: Path) -> str:
    return str(place)


def _letter(place: Path, story: Path) -> str:
    (place / "letter.db").write_text("dear friend\n" * 1000)
    return str(place / "letter.db")


def _empty(place: Path, story: Path) -> str:
    (place / "empty.db").touch()
    return str(place / "empty.db")


def _of_another_program(place: Path, story: Path) -> str:
    with sqlite3.connect(place / "other.db") as connection:
        connection.execute("CREATE TABLE addresses (name TEXT)")
    connection.close()
    return str(place / "other.db")


def _newer(place: Path, story: Path) -> str:
    path = copied(story, place / "newer")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    return str(path)


def _damaged(place: Path, story: Path) -> str:
    path = copied(story, place / "damaged")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return str(path)


def _unreachable(place: Path, story: Path) -> str:
    # Nobody listens there; the password is in no message.
    return "postgresql://somebody:s3cret@127.0.0.1:1/shop"


def _no_place(place: Path, story: Path) -> str:
    return str(place / "no" / "such" / "folder" / "journal.db")


NO_JOURNALS = {
    "missing": (_missing, "there is no journal at"),
    "a folder": (_folder, "there is no journal at"),
    "a folder that is missing": (_no_place, "there is no journal at"),
    "empty": (_empty, "is empty"),
    "a letter": (_letter, "it is no SQLite file; name another file"),
    "SQLite of another program": (_of_another_program, "of another program; name another file"),
    "newer": (_newer, "has schema 999, .* upgrade unanimity"),
    "damaged": (_damaged, "restore it from a backup"),
    "an unreachable PostgreSQL": (_unreachable, "check that the server runs there"),
}


@pytest.mark.parametrize("case", NO_JOURNALS)
@pytest.mark.parametrize("verb", JOURNAL_VERBS)
def test_what_is_no_journal_is_told_in_one_line_that_says_what_to_do(
    verb: str, case: str, story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = NO_JOURNALS[case]
    place = make(tmp_path, story)
    before = sorted(tmp_path.rglob("*"))
    arguments = JOURNAL_VERBS[verb]
    if verb == "recover":
        arguments = ["--store", f"left=files:{tmp_path / 'left'}"]
    line = told_bad(verb, *call(capsys, verb, *arguments, "--journal", place))
    assert re.search(words, line), line
    assert "s3cret" not in line
    if make is not _unreachable:
        assert sorted(tmp_path.rglob("*")) == before, "nothing is made where there is no journal"


@pytest.mark.parametrize("verb", ["show", "resolve", "redrive"])
def test_an_unknown_id_is_named(
    verb: str, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["nobody", *JOURNAL_VERBS[verb][1:], "--journal", str(journal)]
    assert "nobody" in told_bad(verb, *call(capsys, verb, *arguments))


def _ends_of_all(journal: Path, user: int | None = None) -> Iterator[tuple[str, int, str, str]]:
    """Run every verb at once, each in a process: they wait for the same thing."""
    running = {}
    for verb, arguments in JOURNAL_VERBS.items():
        if verb == "recover":
            arguments = ["--store", f"left=files:{journal.parent / 'left'}"]
        command = (verb, *arguments, "--journal", str(journal))
        running[verb] = start(*command)
    for verb, process in running.items():
        with process:
            out, err = process.communicate(timeout=300)
        yield verb, process.returncode, out, err


@contextmanager
def held(journal: Path) -> Iterator[None]:
    """Hold the file as a program does that wants it for itself."""
    connection = sqlite3.connect(journal, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("COMMIT")
    finally:
        connection.close()


def test_a_file_that_another_program_holds_is_told_in_one_line(journal: Path) -> None:
    with held(journal):
        for verb, *ended in _ends_of_all(journal):
            line = told_bad(verb, *ended)  # type: ignore[arg-type]
            assert "another process holds it, try again" in line, line


@contextmanager
def somebody_else() -> Iterator[None]:
    """Root may read everything, so it is somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_journal_that_may_not_be_read_is_told_in_one_line(
    story: Path,
    journal: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = copied(story, tmp_path_factory.mktemp("closed") / "inner")
    place.parent.chmod(0)
    try:
        for verb, arguments in JOURNAL_VERBS.items():
            if verb == "recover":
                arguments = ["--store", f"left=files:{journal.parent / 'left'}"]
            # What a verb imports is read first, as who may read it.
            call(capsys, verb, *arguments, "--journal", str(journal))
            with somebody_else():
                ended = call(capsys, verb, *arguments, "--journal", str(place))
            line = told_bad(verb, *ended)
            assert str(place) in line, line
            assert re.search("(?i)permission denied", line), line
    finally:
        place.parent.chmod(stat.S_IRWXU)


def test_a_database_without_a_journal_is_told_in_one_line(
    postgres: PostgresCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = postgres.dsn(postgres.create_database())
    for verb in ("status", "list", "stuck", "gc", "export", "doctor"):
        line = told_bad(verb, *call(capsys, verb, "--journal", dsn))
        assert "journal" in line, line
    assert (
        postgres.query(
            dsn.rpartition("/")[2], "SELECT 1 FROM pg_tables WHERE schemaname = 'public'"
        )
        == []
    ), "looking makes no tables"


# ---- where the journal is ------------------------------------------------------------------------


def test_the_journal_is_found_as_the_library_finds_it(journal: Path, tmp_path: Path) -> None:
    def ids(*arguments: str, **variables: str) -> list[Any]:
        done = run("list", "--json", *arguments, cwd=tmp_path, **variables)
        assert done.returncode == 0, done.stderr
        return [each["coordination_id"] for each in json.loads(done.stdout)]

    everything = ids("--journal", str(journal))
    assert "good" in everything
    assert ids(UNANIMITY_JOURNAL=str(journal)) == everything
    shutil.copytree(journal.parent, tmp_path / "here")
    (tmp_path / "here" / journal.name).rename(tmp_path / "unanimity.db")
    for rest in ("-log", "-instances"):
        (tmp_path / "here" / f"{journal.name}{rest}").rename(tmp_path / f"unanimity.db{rest}")
    assert ids() == everything
    (tmp_path / "c.yaml").write_text(f"coordination_service:\n  journal: {journal}\n")
    assert ids("--config", "c.yaml") == everything
    wrong = run("list", cwd=tmp_path, UNANIMITY_JOURNALL="x.db")
    assert wrong.returncode == 0, "without a variable that names a journal none is read"
