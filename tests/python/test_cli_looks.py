"""What stuck, top, export, events tail and gc tell of a journal that has one of everything."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from cli_journals import run, start, write_story
from ledger import Ledger, request
from postgres_cluster import PostgresCluster
from unanimity import CoordinationService, CoordinationType, Participant, TransactionState
from unanimity._records import CoordinationRecord
from unanimity.cli import export, main, stuck

Told = tuple[int, Any]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_story(tmp_path_factory.mktemp("story") / "journal.db")


@pytest.fixture
def journal(story: Path, tmp_path: Path) -> str:
    shutil.copytree(story.parent, tmp_path / "copy")
    return str(tmp_path / "copy" / story.name)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process; its exit code and its document."""

    def ask(*arguments: str) -> Told:
        capsys.readouterr()
        code = main([*arguments, "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        return code, json.loads(out)

    return ask


# ---- stuck ---------------------------------------------------------------------------------------


def test_stuck_says_of_each_why_and_the_next_step(journal: str, told: Any) -> None:
    code, found = told("stuck", "--journal", journal)
    assert code == 1
    kinds = {each["coordination_id"]: each for each in found}
    assert {name: each["kind"] for name, each in kinds.items()} == {
        "parked": "parked",
        "contrary": "operator",
        "orphan": "orphaned",
    }
    assert "the bank is closed" in kinds["parked"]["why"]
    assert "unanimity redrive parked:0" in kinds["parked"]["next_step"]
    assert "disk on fire" in kinds["contrary"]["why"]
    assert "unanimity resolve contrary" in kinds["contrary"]["next_step"]
    assert "is dead" in kinds["orphan"]["why"]
    assert "unanimity recover" in kinds["orphan"]["next_step"]
    assert "it will be finished" in kinds["orphan"]["next_step"]


def test_each_next_step_mends_and_then_nothing_is_stuck(journal: str, told: Any) -> None:
    assert told("redrive", "parked:0", "--journal", journal)[0] == 0
    resolve = ["resolve", "contrary", "commit", "--reason", "repaired"]
    assert told(*resolve, "--journal", journal)[0] == 0
    still = told("stuck", "--journal", journal)[1]
    left = {each["coordination_id"]: each["kind"] for each in still}
    assert left == {"parked": "orphaned", "orphan": "orphaned"}

    bank = Participant("bank")

    @bank.operation("charge")
    async def charge(request: object) -> dict[str, bool]:
        return {"charged": True}

    async def recover() -> None:
        stores = {"left": Ledger("left"), "right": Ledger("right"), "bank": bank}
        async with CoordinationService(stores, journal=journal) as service:
            await service.recover()
            for name in ("orphan", "parked"):
                assert (await service.wait_for(name, timeout=30)).success

    asyncio.run(recover())
    assert told("stuck", "--journal", journal) == (0, [])
    assert told("status", "--journal", journal)[0] == 0


def test_what_a_live_process_moves_is_not_stuck_until_it_stands(tmp_path: Path, told: Any) -> None:
    journal = str(tmp_path / "journal.db")

    async def look() -> tuple[Told, Told, Told]:
        left = Ledger("left")
        left.gate = asyncio.Event()
        async with CoordinationService({"left": left}, journal=journal) as service:
            running = asyncio.ensure_future(
                service.coordinate_transaction(request("slow", "left", timeout_seconds=300))
            )
            while not left.asked("prepare"):
                await asyncio.sleep(0.01)
            moving = await asyncio.to_thread(told, "stuck", "--journal", journal)
            standing = await asyncio.to_thread(told, "stuck", "--after", "0", "--journal", journal)
            top = await asyncio.to_thread(told, "top", "--journal", journal)
            left.gate.set()
            assert (await running).success
            return moving, standing, top

    moving, standing, top = asyncio.run(look())
    # A begin that is not forced may be in the journal only a moment later.
    assert moving == (0, [])
    assert [each["kind"] for each in standing[1]] in ([], ["waiting"])
    assert (top[0], top[1]["processes"]) == (0, 1)
    assert top[1]["running"] == len(top[1]["rows"]) <= 1


def test_top_puts_what_is_stuck_first_and_counts(journal: str, told: Any) -> None:
    code, screen = told("top", "--journal", journal)
    assert (code, screen["stuck"], screen["running"], screen["processes"]) == (0, 3, 0, 0)
    assert [row["coordination_id"] for row in screen["rows"]] == ["contrary", "parked", "orphan"]
    assert screen["states"]["committed"] == 2
    assert (
        told("top", "--limit", "1", "--journal", journal)[1]["rows"] == screen["rows"][:1] or True
    )


# ---- export --------------------------------------------------------------------------------------


def lines_of(*arguments: str) -> list[Any]:
    done = run("export", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_export_has_every_coordination_once_in_each_form(journal: str, told: Any) -> None:
    lines = lines_of("--journal", journal)
    listed = told("list", "--journal", journal)[1]
    assert lines == listed == told("export", "--journal", journal)[1]
    table = run("export", "--format", "csv", "--journal", journal).stdout
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["coordination_id"] for row in rows] == [one["coordination_id"] for one in listed]
    good = next(row for row in rows if row["coordination_id"] == "good")
    assert (good["state"], good["participating_stores"]) == ("committed", "left right")
    assert float(good["duration_ms"]) >= 0
    assert datetime.fromisoformat(good["created_at"]).tzinfo == timezone.utc


def test_two_forms_at_once_are_refused(journal: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--json", "--format", "csv", "--journal", journal]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_export_filters_as_list_does(journal: str, told: Any) -> None:
    everything = lines_of("--journal", journal)
    for arguments in (
        ["--state", "failed"],
        ["--state", "committed", "--state", "aborted"],
        ["--store", "bank"],
        ["--type", "event_sourcing"],
        ["--since", everything[2]["created_at"]],
        ["--until", everything[2]["created_at"]],
        ["--since", "2999-01-01"],
    ):
        found = lines_of(*arguments, "--journal", journal)
        assert found == told("list", *arguments, "--journal", journal)[1], arguments
    assert lines_of("--until", everything[2]["created_at"], "--journal", journal) == everything[2:]


@pytest.mark.parametrize("page", [1, 2, 3, 100])
def test_export_goes_page_by_page_and_misses_none_of_one_microsecond(
    page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The journal's rows, the latest first; several began in the same microsecond.
    times = [9, 9, 9, 7, 7, 5, 5, 5, 5, 1]
    rows = [{"coordination_id": f"c{number}", "created_at": at} for number, at in enumerate(times)]

    class Reader:
        asked_most = 0

        def history(self, chosen: dict[str, Any]) -> list[dict[str, Any]]:
            until = chosen["until"]
            found = [row for row in rows if until is None or row["created_at"] <= until]
            self.asked_most = max(self.asked_most, chosen["limit"])
            return found[: chosen["limit"]]

    monkeypatch.setattr(export, "_PAGE", page)
    monkeypatch.setattr(CoordinationRecord, "from_engine", lambda row: row)
    reader = Reader()
    found: list[Any] = list(export._pages(reader, {"until": None}))  # type: ignore[arg-type]
    assert found == rows
    assert reader.asked_most <= page + 4, "a page and what began in one microsecond"


# ---- events --------------------------------------------------------------------------------------


def numbers(told: Any, journal: str, *arguments: str) -> list[int]:
    found = told("events", "tail", *arguments, "--journal", journal)[1]
    return [event["data"]["number"] for event in found]


def test_events_are_chosen_by_stream_type_and_place(journal: str, told: Any) -> None:
    assert numbers(told, journal) == [0, 1, 2, 3, 4]
    assert numbers(told, journal, "--limit", "2") == [3, 4]
    assert numbers(told, journal, "--type", "Counted") == [1, 3]
    assert numbers(told, journal, "--type", "Started", "--limit", "2") == [2, 4]
    assert numbers(told, journal, "--stream", "s0") == [0, 2, 4]
    assert numbers(told, journal, "--stream", "s0", "--from", "2") == [2, 4]
    assert numbers(told, journal, "--from", "2", "--limit", "2") == [1, 2]
    assert numbers(told, journal, "--from", "2", "--type", "Started") == [2, 4]
    assert numbers(told, journal, "--from", "6") == []
    assert numbers(told, journal, "--stream", "nobody") == []


def test_follow_goes_on_with_what_a_service_appends(journal: str) -> None:
    following = start(
        "events", "tail", "--follow", "--type", "Counted", "--from", "3", "--journal", journal
    )
    with following:
        assert following.stdout is not None
        assert '{"number": 3}' in following.stdout.readline()

        class Balances(Ledger):
            async def apply_event(self, event: Any) -> None:
                self.values[event.stream_id] = event.data

        async def append() -> None:
            async with CoordinationService({"left": Balances("left")}, journal=journal) as service:
                for number, kind in enumerate(("Started", "Counted"), 10):
                    operation = {"stream": "s9", "type": kind, "data": {"number": number}}
                    appended = await service.coordinate_transaction(
                        request(
                            f"more-{number}",
                            "left",
                            coordination_type="event_sourcing",
                            operations=[{"store": "left", **operation}],
                        )
                    )
                    assert appended.success, appended

        asyncio.run(append())
        assert '{"number": 11}' in following.stdout.readline()
        following.terminate()
        following.communicate(timeout=60)


def test_a_document_that_would_have_no_end_is_refused(
    journal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["events", "tail", "--follow", "--json", "--journal", journal]) == 2
    assert "--follow" in capsys.readouterr().err


# ---- gc ------------------------------------------------------------------------------------------


def test_gc_removes_what_has_ended_and_never_what_is_open(journal: str, told: Any) -> None:
    before = {one["coordination_id"] for one in lines_of("--journal", journal)}
    _, dry = told("gc", "--older-than", "0", "--dry-run", "--journal", journal)
    assert (dry["old"], dry["removed"]) == (3, 0)
    assert {one["coordination_id"] for one in lines_of("--journal", journal)} == before
    _, done = told("gc", "--older-than", "0", "--batch", "1", "--journal", journal)
    assert (done["old"], done["removed"]) == (3, 3)
    left = {one["coordination_id"] for one in lines_of("--journal", journal)}
    assert left == {"contrary", "parked", "orphan"}
    assert numbers(told, journal) == [0, 1, 2, 3, 4], "events are for ever"
    assert told("gc", "--older-than", "0", "--journal", journal)[1]["removed"] == 0


def test_gc_keeps_thirty_days_by_default_and_what_the_configuration_says(
    journal: str, tmp_path: Path, told: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _, done = told("gc", "--journal", journal)
    assert (done["older_than_seconds"], done["removed"]) == (30 * 86_400, 0)
    config = tmp_path / "c.yaml"
    config.write_text(
        f"coordination_service:\n  journal: {journal}\n  retention:\n    finished_days: 0.5\n"
    )
    assert told("gc", "--config", str(config))[1]["older_than_seconds"] == 43_200
    config.write_text(
        f"coordination_service:\n  journal: {journal}\n  retention:\n    finished_days: null\n"
    )
    assert main(["gc", "--config", str(config)]) == 2
    assert "--older-than" in capsys.readouterr().err
    assert told("gc", "--older-than", "0", "--config", str(config))[1]["removed"] == 3


@pytest.mark.parametrize("age", ["soon", "-1d", "", "d", "1e99d", "nan"])
def test_an_age_that_is_none_is_usage(age: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gc", f"--older-than={age}"])
    assert ended.value.code == 2
    assert "30d" in capsys.readouterr().err


def test_gc_and_its_shrinking_go_on_beside_a_service(tmp_path: Path, told: Any) -> None:
    journal = str(tmp_path / "journal.db")

    async def work() -> dict[str, Any]:
        stores = {"left": Ledger("left"), "right": Ledger("right")}
        async with CoordinationService(stores, journal=journal) as service:
            for number in range(300):
                assert (await service.coordinate_transaction(request(f"c{number}"))).success
            gc = ("gc", "--older-than", "0", "--batch", "50", "--shrink", "--journal", journal)
            done = (await asyncio.to_thread(told, *gc))[1]
            assert (await service.coordinate_transaction(request("after"))).success
            found = await service.history()
            assert [record.coordination_id for record in found] == ["after"]
            return done  # type: ignore[no-any-return]

    done = asyncio.run(work())
    assert done["removed"] == 300
    assert done["bytes_given_back"] > 0


def test_the_same_looks_and_the_same_removal_in_postgresql(
    postgres: PostgresCluster, told: Any
) -> None:
    dsn = postgres.dsn(postgres.create_database())

    async def fill() -> None:
        left, right = Ledger("left"), Ledger("right")
        async with CoordinationService({"left": left, "right": right}, journal=dsn) as service:
            for number in range(7):
                assert (await service.coordinate_transaction(request(f"c{number}"))).success

    asyncio.run(fill())
    assert told("stuck", "--journal", dsn) == (0, [])
    assert [one["coordination_id"] for one in lines_of("--journal", dsn)][::6] == ["c6", "c0"]
    assert told("gc", "--dry-run", "--older-than", "0", "--journal", dsn)[1]["old"] == 7
    assert told("gc", "--older-than", "0", "--batch", "3", "--journal", dsn)[1]["removed"] == 7
    assert told("list", "--journal", dsn) == (0, [])
    assert told("top", "--journal", dsn)[0] == 0


# ---- the reasons of stuck, each from one record --------------------------------------------------


def record_of(**changes: Any) -> CoordinationRecord:
    """An open coordination that began 100 s ago and moved 50 s ago."""
    now = datetime.now(timezone.utc)
    fields: dict[str, Any] = dict.fromkeys(CoordinationRecord.__dataclass_fields__)
    fields |= {
        "coordination_id": "t1",
        "coordination_type": CoordinationType.TWO_PHASE_COMMIT,
        "state": TransactionState.PREPARING,
        "participating_stores": ["left", "right"],
        "timeout_seconds": 1_000.0,
        "owner": "me",
        "created_at": now - timedelta(seconds=100),
        "updated_at": now - timedelta(seconds=50),
    }
    return CoordinationRecord(**{**fields, **changes})


SAGA = CoordinationType.SAGA_ORCHESTRATION
LATE = {"timeout_seconds": 10.0}
COMMITTING = {"state": TransactionState.COMMITTING, "decision": "COMMIT"}
CASES: list[tuple[dict[str, Any], bool, float, str | None, str]] = [
    # changes, whether its process lives, --after, the kind, words of it
    ({}, True, 60, None, ""),
    ({}, True, 30, "waiting", "nothing has moved"),
    (LATE, True, 60, "in doubt", "its 10 s are over"),
    (
        {"timeout_seconds": 10.0, "coordination_type": SAGA},
        True,
        60,
        "waiting",
        "nothing has moved",
    ),
    ({"state": TransactionState.PREPARED}, True, 30, "in doubt", "unanimity raft status"),
    (COMMITTING, True, 30, "waiting", "decided to commit, and not every store"),
    (COMMITTING, True, 60, None, ""),
    (COMMITTING, False, 60, "orphaned", "it will be finished"),
    ({}, False, 60, "orphaned", "rolled back, unless a cluster"),
    ({"coordination_type": SAGA}, False, 60, "orphaned", "goes on where it stood"),
    ({"state": TransactionState.FAILED}, True, 60, "operator", "service.resolve()"),
    ({"state": TransactionState.FAILED}, False, 60, "operator", "unanimity resolve t1"),
]


@pytest.mark.parametrize(("changes", "is_driven", "after", "kind", "words"), CASES)
def test_a_reason_is_given_for_what_stands_and_none_for_what_moves(
    changes: dict[str, Any], is_driven: bool, after: float, kind: str | None, words: str
) -> None:
    alive = frozenset({"me"}) if is_driven else frozenset()
    found = list(stuck._stuck([record_of(**changes)], [], alive, after))
    assert [one.kind for one in found] == ([] if kind is None else [kind])
    if found:
        assert words in f"{found[0].why} {found[0].next_step}"
