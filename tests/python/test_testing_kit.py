"""The kit for stores: ours keep every duty, and each broken store is caught for what is wrong."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import broken_stores
from broken_stores import HonestStore
from postgres_cluster import PostgresCluster
from unanimity import ConfigError, OperationRequest, Participant
from unanimity.barrier import Work, barrier
from unanimity.cli.search_index import SearchIndex
from unanimity.stores import FileStore, MemoryStore, PostgresStore, SqliteStore
from unanimity.testing import (
    DutyBroken,
    StoreReport,
    StoreWords,
    acheck_store,
    check_store,
    duty_names,
)

HERE = Path(__file__).parent
KEY_VALUE = StoreWords()


# --- our own stores ----------------------------------------------------------------------------


def sql_words(placeholders: tuple[str, str]) -> StoreWords:
    """The words of a SQL store with a table `facts (name, value)`."""
    first, second = placeholders

    def put(key: str, value: str) -> dict[str, Any]:
        text = (
            f"INSERT INTO facts VALUES ({first}, {second}) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        )
        return {"type": "execute", "statement": text, "parameters": [key, value]}

    def undo(key: str) -> dict[str, Any]:
        text = f"DELETE FROM facts WHERE name = {first}"
        return {"type": "execute", "statement": text, "parameters": [key]}

    def bad(key: str) -> dict[str, Any]:
        text = f"INSERT INTO no_such_table VALUES ({first})"
        return {"type": "execute", "statement": text, "parameters": [key]}

    async def read(store: SqliteStore | PostgresStore, key: str) -> str | None:
        rows = await store.fetch(f"SELECT value FROM facts WHERE name = {first}", [key])
        return str(rows[0]["value"]) if rows else None

    return StoreWords(put, undo, read, bad)


CREATE = "CREATE TABLE IF NOT EXISTS facts (name text PRIMARY KEY, value text)"


def make_memory(_: str) -> MemoryStore:
    return MemoryStore()


def make_files(place: str) -> FileStore:
    return FileStore(f"{place}/files")


def make_sqlite(place: str) -> SqliteStore:
    path = f"{place}/facts.db"
    connection = sqlite3.connect(path, timeout=30)
    connection.execute(CREATE)
    connection.close()
    return SqliteStore(path)


def make_postgres(dsn: str) -> PostgresStore:
    return PostgresStore(dsn, max_connections=4)


def make_index(place: str) -> SearchIndex:
    return SearchIndex(f"{place}/index.log")


def _index_put(key: str, value: str) -> dict[str, Any]:
    return {"type": "index", "key": key, "entry": {"words": [value]}}


def _index_read(store: SearchIndex, key: str) -> str | None:
    entry = store.entries().get(key)
    return None if entry is None else str(entry["words"][0])


@dataclass(frozen=True)
class Subject:
    """A store of ours: how it is made, spoken to, and what it does not have."""

    name: str
    make: Callable[[str], Any]
    words: StoreWords = KEY_VALUE
    is_volatile: bool = False
    has_steps: bool = False
    has_fences: bool = True
    server: str = ""
    """The fixture of the server that it needs."""


# A store that is new gets a row here.
SUBJECTS = (
    Subject("memory", make_memory, is_volatile=True),
    Subject("files", make_files),
    Subject("sqlite", make_sqlite, sql_words(("?", "?"))),
    Subject("postgres", make_postgres, sql_words(("$1", "$2")), server="postgres"),
    Subject("index", make_index, StoreWords(put=_index_put, read=_index_read), has_fences=False),
)


def place_of(subject: Subject, folder: Path, request: pytest.FixtureRequest) -> str:
    """Where the store's data are: a folder, or a fresh database of a real server."""
    if subject.server != "postgres":
        return str(folder)
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    database = cluster.create_database()
    cluster.query(database, CREATE)
    return cluster.dsn(database)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_every_store_of_ours_keeps_its_duties(
    subject: Subject, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = place_of(subject, tmp_path, request)
    report = check_store(subject.make, place, words=subject.words)
    states = {result.duty: result.state for result in report.duties}
    assert list(states) == duty_names()
    for duty, state in states.items():
        is_step = "step" in duty or duty.startswith("undo")
        is_durable = duty.startswith(("kill", "close"))
        is_left_out = duty == "fences" and not subject.has_fences
        if is_left_out or (is_step and not subject.has_steps):
            assert state == "not there", report
        elif is_durable and subject.is_volatile:
            assert state == "volatile", report
        else:
            assert state == "kept", report


# --- broken ones -------------------------------------------------------------------------------

BROKEN = {
    "Eager": ("hidden", "it is prepared and not committed: .* should be None, and is 'one'"),
    "Holding": ("abort", "the vote for one good operation is ABORT"),
    "Listing": ("list", "it was committed, and list_prepared_transactions still names it"),
    "Repeating": ("commit-again", "repeated has done it twice: .* 'two', and is 'one'"),
    "Startled": ("abort-unknown", "abort is answered UNKNOWN"),
    "Silent": ("abort-unknown", "abort is answered UNKNOWN"),
    "Resurrecting": ("commit-after-abort", "aborted before it was told to commit: .* 'one'"),
    "Undoing": ("abort-after-commit", "committed before it was told to abort: .* and is None"),
    "YesSayer": ("bad-operation", "an operation that cannot be done is COMMIT"),
    "Losing": ("many-at-once", "it was committed beside others: .* and is None"),
    "ClosingAborts": ("close-keeps", "commit is answered FAILED"),
    "InMemory": ("kill-then-commit", "named as prepared before the kill, and is not named"),
    "LateToDisk": ("kill-after-commit", "acknowledged before the kill: .* and is None"),
    "Torn": ("kill-anywhere", "killed, then committed: .* should be 'two', and is None"),
    "Doubling": ("step-again", "asked again was done twice: .* 'two', and is 'one'"),
    "UndoingBlindly": ("undo-first", "the undoing of what was never done changed something"),
    "TakingLate": ("undo-first", "after its own undoing is answered SUCCESS"),
    "Trying": ("step-bad", "answered FAILED, to be tried again"),
    "HalfHearted": ("whole", "the end was commit: .* should be 'two', and is None"),
    "Filing": ("any-id", "the vote for one good operation is UNKNOWN"),
    "Impatient": ("abort-again", "abort is answered FAILED"),
    "Puzzled": ("commit-unknown", "a transaction that it never saw is to be answered"),
    "Stacking": ("prepare-twice", "it has ended, and list_prepared_transactions still names it"),
    "Reviving": ("prepare-after-abort", "list_prepared_transactions still names it"),
    "Racing": ("abort-while-preparing", "list_prepared_transactions still names it"),
    "Smearing": ("same-key-at-once", "were committed under .* is there"),
    "Jealous": ("commit-at-once", "the same commit four times at once is answered .*FAILED"),
    "Idle": ("step", "it was executed: .* should be 'one', and is None"),
    "NotUndoing": ("undo", "it was undone: .* should be None, and is 'one'"),
    "UndoingAgain": ("undo-again", "an undoing that was asked again was done twice"),
    "LosingSteps": ("steps-at-once", "steps ran at once: .* and is None"),
    "Leaking": ("kill-then-abort", "the vote for one good operation is ABORT"),
    "StepsInMemory": ("kill-after-step", "asked again after the kill it was done twice"),
    "Truthy": ("commit", "the vote for one good operation is no vote"),
}


def make_broken(name: str, path: str) -> HonestStore:
    made: HonestStore = getattr(broken_stores, name)(path)
    return made


def test_the_store_that_they_are_made_of_keeps_every_duty(tmp_path: Path) -> None:
    report = check_store(HonestStore, tmp_path / "store.json")
    states = {result.duty: result.state for result in report.duties}
    assert list(states) == duty_names()
    # Nobody has to look at fencing tokens.
    assert states.pop("fences") == "not there"
    assert set(states.values()) == {"kept"} and report.is_kept


def test_every_broken_store_is_tried() -> None:
    kinds = {
        name
        for name, kind in vars(broken_stores).items()
        if isinstance(kind, type) and issubclass(kind, HonestStore) and kind is not HonestStore
    }
    assert kinds == set(BROKEN)
    # A duty that no store breaks would not be known to catch anything.
    assert {duty for duty, _ in BROKEN.values()} == set(duty_names()) - {"fences"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_store_is_caught_for_the_right_reason(name: str, tmp_path: Path) -> None:
    duty, words = BROKEN[name]
    # Every duty before that one is kept; later ones may break for the same reason.
    tried = duty_names()[: duty_names().index(duty) + 1]
    seconds = 1 if name == "Silent" else 20
    with pytest.raises(DutyBroken) as caught:
        check_store(make_broken, name, tmp_path / "store.json", only=tried, call_seconds=seconds)
    first = caught.value.result
    assert first.duty == duty, caught.value
    assert re.search(words, first.note), first
    assert first.history
    assert f"breaks the duty {duty}: {first.promise}" in str(caught.value)


def test_the_history_is_the_shortest_one_and_says_what_was_answered(tmp_path: Path) -> None:
    with pytest.raises(DutyBroken) as caught:
        check_store(make_broken, "Repeating", tmp_path / "store.json", only=["commit-again"])
    short = [re.sub(r"kit-\w+-", "", call) for call in caught.value.result.history]
    assert short == [
        """prepare t2 ["put key='k1' value='one'"] -> COMMIT""",
        "commit t2 -> SUCCESS",
        "commit t2 -> SUCCESS",
        """prepare t3 ["put key='k1' value='two'"] -> COMMIT""",
        "commit t3 -> SUCCESS",
        "commit t2 -> SUCCESS",
        "read k1 -> 'one'",
    ]


# --- a participant made of functions -----------------------------------------------------------


def make_bank(path: str, has_barrier: bool) -> Participant:
    """Functions over a SQLite file, behind the barrier or not."""
    bank = Participant("bank")

    def change(request: OperationRequest, work: Work, statement: str) -> None:
        key, value = request.operation["key"], request.operation["value"]
        connection = sqlite3.connect(path, timeout=30)
        with closing(connection), connection:
            connection.execute("BEGIN IMMEDIATE")
            done = barrier(connection, request, work) if has_barrier else nullcontext(True)
            with done as first:
                if first:
                    connection.execute(statement, {"key": key, "value": value})

    @bank.operation("put")
    def put(request: OperationRequest) -> None:
        change(request, "execute", "INSERT OR REPLACE INTO facts VALUES (:key, :value)")

    @put.compensation
    def undo(request: OperationRequest) -> None:
        change(request, "compensate", "DELETE FROM facts WHERE name = :key")

    return bank


def check_bank(path: Path, has_barrier: bool) -> StoreReport:
    connection = sqlite3.connect(path)
    connection.execute(CREATE)
    connection.close()

    def read(_: Participant, key: str) -> str | None:
        connection = sqlite3.connect(path, timeout=30)
        with closing(connection):
            select = "SELECT value FROM facts WHERE name = ?"
            row = connection.execute(select, (key,)).fetchone()
        return None if row is None else str(row[0])

    return check_store(make_bank, path, has_barrier, words=StoreWords(undo=None, read=read))


def test_functions_behind_the_barrier_keep_the_duties_of_steps(tmp_path: Path) -> None:
    report = check_bank(tmp_path / "bank.db", has_barrier=True)
    kept = [result.duty for result in report.duties if result.state == "kept"]
    assert kept == [name for name in duty_names() if "step" in name or "undo" in name]
    assert {result.state for result in report.duties} == {"kept", "not there"}


def test_functions_without_the_barrier_do_not(tmp_path: Path) -> None:
    with pytest.raises(DutyBroken) as caught:
        check_bank(tmp_path / "bank.db", has_barrier=False)
    broken = {result.duty for result in caught.value.report.broken}
    assert {"step-again", "undo-again", "undo-first", "kill-after-step"} <= broken


# --- how it is called --------------------------------------------------------------------------


def test_a_function_that_no_child_can_find_is_tried_without_kills(tmp_path: Path) -> None:
    def make() -> HonestStore:
        return HonestStore(str(tmp_path / "store.json"))

    report = check_store(make)
    not_run = [result.duty for result in report.duties if result.state == "not run"]
    assert not_run == [name for name in duty_names() if name.startswith("kill")]
    assert "give a function of a module, or its name" in report.table()


def test_a_maker_is_found_by_the_name_of_its_file_too(tmp_path: Path) -> None:
    name = f"{HERE / 'broken_stores.py'}:HonestStore"
    report = check_store(name, tmp_path / "store.json", only=["kill-then-commit"])
    assert [result.state for result in report.duties] == ["kept"]


async def _check_inside(path: Path) -> None:
    with pytest.raises(RuntimeError, match="await acheck_store"):
        check_store(HonestStore, path)
    report = await acheck_store(HonestStore, path, only=["commit", "undo"], seed=7)
    assert (report.seed, len(report.duties)) == (7, 2)


def test_inside_of_a_loop_it_is_awaited(tmp_path: Path) -> None:
    import asyncio

    asyncio.run(_check_inside(tmp_path / "store.json"))


def test_an_unknown_duty_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no duty \['courage'\]; the duties are commit, hidden"):
        check_store(HonestStore, tmp_path / "store.json", only=["courage"])


def test_arguments_that_cannot_reach_a_child_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plain JSON or paths"):
        check_store(HonestStore, object())


# --- the plugin --------------------------------------------------------------------------------

SESSION = """
import pytest

@pytest.mark.unanimity_store("broken_stores:{kind}", "{{tmp_path}}/store.json")
def test_it(store_duty):
    store_duty.check()

def test_all_at_once(check_store, tmp_path):
    check_store("broken_stores:HonestStore", tmp_path / "s.json", only=["commit"])
"""


@pytest.fixture
def run_session(tmp_path: Path) -> Iterator[Callable[[str], tuple[int, str]]]:
    """Run a session of pytest of its own over one store."""

    def run(kind: str) -> tuple[int, str]:
        (tmp_path / "test_it.py").write_text(SESSION.format(kind=kind))
        command = [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-rA"]
        done = subprocess.run(
            [*command, "--strict-markers", "test_it.py"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(HERE), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stdout + done.stderr

    yield run


def test_the_plugin_makes_a_test_of_each_duty(
    run_session: Callable[[str], tuple[int, str]],
) -> None:
    code, said = run_session("HonestStore")
    assert code == 0, said
    assert f"{len(duty_names())} passed, 1 skipped" in said
    # What is skipped is told without its name.
    assert all(f"test_it[{name}]" in said for name in duty_names() if name != "fences")


def test_the_plugin_fails_the_duty_that_is_broken(
    run_session: Callable[[str], tuple[int, str]],
) -> None:
    code, said = run_session("Undoing")
    assert code == 1, said
    assert "FAILED test_it.py::test_it[abort-after-commit]" in said
    assert said.count("FAILED test_it.py") == 1
