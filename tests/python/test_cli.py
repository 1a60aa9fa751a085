"""The command line, as a process: exit codes, text, JSON, and errors of one line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger, request
from unanimity import CommitResult, CoordinationService, PrepareResult
from unanimity.cli import main
from unanimity.stores import FileStore


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as people do."""
    return subprocess.run(
        [sys.executable, "-m", "unanimity", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


def run_json(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """A journal with one committed and one aborted coordination, closed."""
    path = tmp_path / "journal.db"
    left, right = Ledger("left"), Ledger("right")

    async def fill() -> None:
        async with CoordinationService({"left": left, "right": right}, journal=path) as service:
            await service.coordinate_transaction(request("good"))
            right.answer = PrepareResult("right", "ABORT", "no room")
            await service.coordinate_transaction(request("bad"))
            await service.wait_for("bad", timeout=10)

    asyncio.run(fill())
    return str(path)


def test_version_says_which() -> None:
    done = run("version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("unanimity")
    assert set(run_json("version")) == {"unanimity", "python", "system"}


def test_status_counts_states(journal: str) -> None:
    told = run_json("status", "--journal", journal)
    assert told["states"]["committed"] == told["states"]["aborted"] == 1
    assert told["needs_operator"] == []
    done = run("status", "--journal", journal)
    assert done.returncode == 0
    assert "committed" in done.stdout and journal in done.stdout


def test_list_filters_and_shows_the_latest_first(journal: str) -> None:
    told = run_json("list", "--journal", journal)
    assert [each["coordination_id"] for each in told] == ["bad", "good"]
    aborted = run_json("list", "--journal", journal, "--state", "aborted")
    assert [each["coordination_id"] for each in aborted] == ["bad"]
    assert run_json("list", "--journal", journal, "--store", "nowhere") == []
    assert run_json("list", "--journal", journal, "--since", "2999-01-01T00:00:00Z") == []
    assert len(run_json("list", "--journal", journal, "--since", "2000-01-01")) == 2
    assert "no room" in run("list", "--journal", journal).stdout


def test_show_tells_everything_about_one(journal: str) -> None:
    told = run_json("show", "bad", "--journal", journal)
    assert (told["state"], told["decision"]) == ("aborted", "ABORT")
    assert {each["store"]: each["vote"] for each in told["stores"]}["right"] == "ABORT"
    text = run("show", "bad", "--journal", journal).stdout
    for word in ("bad", "aborted", "right", "no room", "began", "ended"):
        assert word in text


def test_migrate_of_a_present_journal_changes_nothing(journal: str) -> None:
    assert run("migrate", "--journal", journal).returncode == 0
    assert len(run_json("list", "--journal", journal)) == 2


def test_status_is_1_while_one_waits_for_an_operator_and_resolve_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    left = Ledger("left")
    left.commit_answer = CommitResult("left", "FAILED", "disk on fire")

    async def fill() -> None:
        service = CoordinationService({"left": left}, journal=path)
        await service.coordinate_transaction(request("t1", "left"))
        await service.close(timeout=1)

    asyncio.run(fill())
    told = run("status", "--journal", str(path))
    assert told.returncode == 1
    assert "t1" in told.stdout
    done = run("resolve", "t1", "commit", "--reason", "repaired", "--journal", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert run("status", "--journal", str(path)).returncode == 0
    assert "repaired" in run("show", "t1", "--journal", str(path)).stdout


def test_recover_takes_stores_by_address_and_from_a_module(tmp_path: Path) -> None:
    path, root = tmp_path / "journal.db", tmp_path / "blobs"

    async def fill() -> None:
        stores = {"blobs": FileStore(root, "blobs")}
        async with (
            CoordinationService(stores, journal=path) as service,
            service.transaction() as tx,
        ):
            tx.add("blobs", "put", key="a", value="x")

    asyncio.run(fill())
    told = run_json("recover", "--journal", str(path), "--store", f"blobs=files:{root}")
    assert told["in_doubt"] == told["open"] == []
    (tmp_path / "shop.py").write_text(
        "from unanimity.stores import FileStore\n"
        f"def make(): return {{'blobs': FileStore({str(root)!r}, 'blobs')}}\n"
    )
    done = run("recover", "--journal", str(path), "--stores", "shop:make", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


BAD: dict[str, tuple[list[str], int, str]] = {
    "no verb": ([], 2, "COMMAND"),
    "unknown verb": (["dance"], 2, "dance"),
    "no journal there": (["status", "--journal", "/nowhere/j.db"], 1, "/nowhere/j.db"),
    "journal in memory": (["list", "--journal", "memory:"], 1, "--journal PATH"),
    "journal in SQLite's memory": (["list", "--journal", ":memory:"], 1, "--journal PATH"),
    "unknown id": (["show", "nothing", "--journal", "JOURNAL"], 1, "nothing"),
    "unknown state": (["list", "--journal", "JOURNAL", "--state", "asleep"], 1, "asleep"),
    "time that is none": (["list", "--journal", "JOURNAL", "--since", "noon"], 1, "noon"),
    "limit of nothing": (["list", "--journal", "JOURNAL", "--limit", "0"], 2, "--limit"),
    "resolve without a reason": (["resolve", "bad", "commit"], 2, "--reason"),
    "resolve to a third thing": (["resolve", "bad", "maybe", "--reason", "x"], 2, "maybe"),
    "resolve of an unknown id": (
        ["resolve", "nothing", "commit", "--reason", "x", "--journal", "JOURNAL"],
        1,
        "nothing",
    ),
    "recover without stores": (["recover", "--journal", "JOURNAL"], 1, "--store NAME=KIND:WHERE"),
    "store without a kind": (
        ["recover", "--journal", "JOURNAL", "--store", "a=tape:x"],
        1,
        "a=tape:x",
    ),
    "stores in no module": (
        ["recover", "--journal", "JOURNAL", "--stores", "no_such_module:x"],
        1,
        "no_such_module",
    ),
    "demo of no folder": (["demo", "/nowhere"], 1, "/nowhere"),
    "journal that is a letter": (["status", "--journal", "LETTER"], 1, "LETTER"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_use_is_one_line_and_an_exit_code(case: str, journal: str, tmp_path: Path) -> None:
    arguments, code, word = BAD[case]
    letter = tmp_path / "LETTER"
    letter.write_text("dear friend\n" * 1000)
    places = {"JOURNAL": journal, "LETTER": str(letter)}
    done = run(*(places.get(argument, argument) for argument in arguments))
    assert done.returncode == code
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("unanimity: ")


def test_a_mistake_of_ours_is_one_line_that_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unanimity.cli import journal as module

    def broken(arguments: object) -> int:
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr(module, "version_verb", broken)
    assert main(["version"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "ZeroDivisionError: by nothing" in told and "report it" in told
