"""`unanimity doctor`: it finds what is wrong, says how to mend it, and ends with 1 where it is bad.

How long a sync takes and how full a disk is is this machine's matter: those rows are there, and
what they say is decided by numbers that are given to them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from cli_journals import write_story
from ledger import Ledger, request
from postgres_cluster import PostgresCluster
from unanimity import CoordinationService
from unanimity.cli import doctor_file, main
from unanimity.stores import FileStore, PostgresStore, SqliteStore

Findings = list[dict[str, str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run it in this process: its exit code, and its findings."""

    def ask(*arguments: str) -> tuple[int, Findings]:
        capsys.readouterr()
        code = main(["doctor", *arguments, "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        findings: Findings = json.loads(out)
        for finding in findings:
            assert finding["severity"] in ("ok", "note", "warning", "bad")
            assert finding["mend"] or finding["severity"] in ("ok", "note"), finding
        assert code == int(any(finding["severity"] == "bad" for finding in findings))
        return code, findings

    return ask


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    """A journal in which all is well."""
    folder = tmp_path / "healthy"
    folder.mkdir()

    async def fill() -> None:
        stores = {"left": Ledger("left"), "right": Ledger("right")}
        async with CoordinationService(stores, journal=folder / "journal.db") as service:
            await service.coordinate_transaction(request("good"))

    asyncio.run(fill())
    (folder / "journal.db").chmod(0o600)
    return folder / "journal.db"


def of(findings: Findings, check: str) -> list[tuple[str, str]]:
    return [(one["severity"], one["what"]) for one in findings if one["check"] == check]


def worst(findings: Findings, check: str) -> str:
    severities = [severity for severity, _ in of(findings, check)]
    return min(severities, key=("bad", "warning", "note", "ok").index)


def test_a_good_journal_has_nothing_bad(healthy: Path, told: Any) -> None:
    before = sorted(healthy.parent.rglob("*"))
    code, findings = told("--journal", str(healthy))
    checks = {finding["check"] for finding in findings}
    assert {"permissions", "disk", "sync", "schema", "clock", "open work"} <= checks
    for check in ("permissions", "schema", "clock", "open work"):
        assert worst(findings, check) == "ok", findings
    assert "SQLite 3." in of(findings, "schema")[0][1]
    if worst(findings, "disk") != "bad" and worst(findings, "file system") != "bad":
        assert code == 0
    assert sorted(healthy.parent.rglob("*")) == before, "nothing of it is left"


def test_open_work_is_told_with_the_command_that_mends_it(tmp_path: Path, told: Any) -> None:
    journal = write_story(tmp_path / "journal.db")
    code, findings = told("--journal", str(journal))
    assert code == 1
    assert findings[0]["severity"] == "bad", "the worst comes first"
    mends = {finding["what"]: finding["mend"] for finding in findings}
    assert "resolve" in next(mend for what, mend in mends.items() if "contrary" in what)
    assert "redrive" in next(mend for what, mend in mends.items() if "parked" in what)
    assert worst(findings, "dead owners") == "warning"
    assert "orphan" in of(findings, "dead owners")[0][1]


def test_rights_that_are_too_wide_are_told(healthy: Path, told: Any) -> None:
    healthy.chmod(0o606)
    code, findings = told("--journal", str(healthy))
    assert code == 1 and "606" in of(findings, "permissions")[0][1]
    healthy.chmod(0o604)
    assert worst(told("--journal", str(healthy))[1], "permissions") == "note"


def test_a_clock_that_went_back_is_told(healthy: Path, told: Any) -> None:
    with sqlite3.connect(healthy) as connection:
        connection.execute(
            "UPDATE coordination_transactions SET created_at = '2999-01-01T00:00:00.000000+00:00'"
        )
    connection.close()
    code, findings = told("--journal", str(healthy))
    assert code == 1 and "in the future" in of(findings, "clock")[0][1]


def test_what_is_older_than_the_retention_is_told(healthy: Path, tmp_path: Path, told: Any) -> None:
    with sqlite3.connect(healthy) as connection:
        long_ago = "2001-01-01T00:00:00.000000+00:00"
        connection.execute(
            "UPDATE coordination_transactions SET created_at = ?1, updated_at = ?1, "
            "completed_at = ?1",
            [long_ago],
        )
    connection.close()
    _, findings = told("--journal", str(healthy))
    assert "1 ended more than 31 days ago" in of(findings, "retention")[0][1]
    config = tmp_path / "c.yaml"
    config.write_text(
        f"coordination_service:\n  journal: {healthy}\n  retention:\n    finished_days: null\n"
    )
    assert "for ever" in of(told("--config", str(config))[1], "retention")[0][1]


# ---- the disk ------------------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("free", "severity"), [(10 * 2**20, "bad"), (500 * 2**20, "warning"), (50 * 2**30, "ok")]
)
def test_a_full_disk_is_told_before_it_is_full(
    free: int, severity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = Usage(100 * 2**30, 100 * 2**30 - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    (finding,) = doctor_file.room_findings("disk", tmp_path)
    assert finding.severity == severity


@pytest.mark.parametrize(
    ("seconds", "severity"), [(2.0, "warning"), (1e-7, "warning"), (0.004, "ok")]
)
def test_a_sync_that_is_slow_or_too_good_is_told(
    seconds: float, severity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_file, "_timed_sync", lambda descriptor: seconds)
    (finding,) = doctor_file._sync(tmp_path)
    assert finding.severity == severity
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_sync_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> float:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(doctor_file, "_timed_sync", broken)
    (finding,) = doctor_file._sync(tmp_path)
    assert finding.severity == "bad" and "Input/output error" in finding.what
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "severity"),
    [("tmpfs", "bad"), ("nfs4", "warning"), ("overlay", "warning"), ("ext4", "ok")],
)
def test_the_kind_of_the_file_system_is_judged(
    kind: str, severity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_file, "_kind_of", lambda folder: kind)
    (finding,) = doctor_file._file_system(tmp_path)
    assert finding.severity == severity


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no memory file system")
def test_memory_is_known_for_what_it_is() -> None:
    assert doctor_file._kind_of(Path("/dev/shm")) in (*doctor_file._VOLATILE, "overlay")


# ---- stores --------------------------------------------------------------------------------------


def _die_prepared(folder: Path, dsn: str) -> None:
    """A child prepares in three stores, and is gone before it decides."""
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        return
    try:
        asyncio.run(_prepare(folder, dsn))
    except BaseException:
        os._exit(1)
    os._exit(0)


async def _prepare(folder: Path, dsn: str) -> None:
    stores: dict[str, Any] = {
        "rows": SqliteStore(folder / "rows.db", name="rows"),
        "blobs": FileStore(folder / "blobs", name="blobs"),
        "bank": PostgresStore(dsn, name="bank"),
        "last": Ledger("last"),
    }
    stores["last"].gate = asyncio.Event()
    service = CoordinationService(stores, journal=folder / "journal.db")
    await service.start()
    create = "CREATE TABLE items (key TEXT)"
    operations: list[dict[str, Any]] = [
        {"store": "rows", "type": "execute", "statement": create},
        {"store": "blobs", "type": "put", "key": "a", "value": "b"},
        {"store": "bank", "type": "execute", "statement": create},
        {"store": "last", "type": "put", "key": "a", "value": 1},
    ]
    asyncio.ensure_future(  # noqa: RUF006
        service.coordinate_transaction(
            request("t1", *stores, operations=operations, timeout_seconds=300)
        )
    )
    while not (
        await stores["rows"].list_prepared_transactions()
        and await stores["blobs"].list_prepared_transactions()
        and await stores["bank"].list_prepared_transactions()
    ):
        await asyncio.sleep(0.02)
    # In the middle of it: a loop that ends would cancel the last vote, and abort.
    os._exit(0)


def test_prepared_work_is_held_against_the_journal(
    postgres: PostgresCluster, tmp_path: Path, told: Any
) -> None:
    dsn = postgres.dsn(postgres.create_database())
    _die_prepared(tmp_path, dsn)
    stores = [
        *("--store", f"rows=sqlite:{tmp_path / 'rows.db'}"),
        *("--store", f"blobs=files:{tmp_path / 'blobs'}"),
        *("--store", f"bank=postgres:{dsn}"),
    ]
    journal = str(tmp_path / "journal.db")
    _, findings = told("--journal", journal, *stores)
    for name in ("rows", "blobs", "bank"):
        told_of = [what for _, what in of(findings, f"store {name}") if "prepared" in what]
        assert any("1 are prepared" in what for what in told_of), (name, told_of)
    assert any("max_prepared_transactions" in what for _, what in of(findings, "store bank"))
    # Another journal's work is not judged by this one.
    other = tmp_path / "other"
    other.mkdir()

    async def begin_another() -> None:
        async with CoordinationService({"a": Ledger("a")}, journal=other / "journal.db"):
            pass

    asyncio.run(begin_another())
    _, findings = told("--journal", str(other / "journal.db"), *stores)
    for name in ("rows", "blobs", "bank"):
        assert ("ok", "0 are prepared, all of open coordinations") in of(findings, f"store {name}")

    async def recover() -> None:
        made = {
            "rows": SqliteStore(tmp_path / "rows.db", name="rows"),
            "blobs": FileStore(tmp_path / "blobs", name="blobs"),
            "bank": PostgresStore(dsn, name="bank"),
            "last": Ledger("last"),
        }
        # What has no record is an orphan, and is left alone for so long.
        settings = {"recovery": {"orphan_interval_seconds": 0.05}}
        settings["recovery"]["recovery_interval_seconds"] = 0.05
        async with CoordinationService(made, journal=journal, config=settings) as service:
            await service.recover()
            while await made["bank"].list_prepared_transactions():  # type: ignore[attr-defined]
                await asyncio.sleep(0.02)
            while await made["rows"].list_prepared_transactions():  # type: ignore[attr-defined]
                await asyncio.sleep(0.02)
            while await made["blobs"].list_prepared_transactions():  # type: ignore[attr-defined]
                await asyncio.sleep(0.02)

    asyncio.run(recover())
    _, findings = told("--journal", journal, *stores)
    for name in ("rows", "blobs", "bank"):
        assert ("ok", "0 are prepared, all of open coordinations") in of(findings, f"store {name}")


def test_stores_of_a_module_say_themselves_what_is_prepared(
    healthy: Path, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "doctors_shop.py").write_text(
        "class Shop:\n"
        "    async def list_prepared_transactions(self):\n"
        "        return ['ghost', 'good']\n"
        "class Broken:\n"
        "    def list_prepared_transactions(self):\n"
        "        raise RuntimeError('no network')\n"
        "stores = {'shop': Shop(), 'broken': Broken(), 'mute': object()}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, findings = told("--journal", str(healthy), "--stores", "doctors_shop:stores")
    assert code == 1
    words = [what for _, what in of(findings, "store shop")]
    assert any("no record tells of, such as ghost" in what for what in words)
    assert any("has ended, such as good" in what for what in words)
    assert "no network" in of(findings, "store broken")[0][1]
    assert worst(findings, "store mute") == "note"


@pytest.mark.parametrize(
    "store",
    ["a=sqlite:/nowhere/a.db", "a=files:/nowhere/a", "a=postgres:postgresql://127.0.0.1:1/x"],
)
def test_a_store_that_is_not_there_is_bad_and_the_rest_is_told_all_the_same(
    store: str, healthy: Path, told: Any
) -> None:
    code, findings = told("--journal", str(healthy), "--store", store)
    assert code == 1
    assert worst(findings, "store a") == "bad" and worst(findings, "schema") == "ok"


# ---- servers -------------------------------------------------------------------------------------


def test_a_journal_in_postgresql_is_looked_at(postgres: PostgresCluster, told: Any) -> None:
    dsn = postgres.dsn(postgres.create_database())

    async def begin() -> None:
        async with CoordinationService({"a": Ledger("a")}, journal=dsn) as service:
            await service.coordinate_transaction(request("good", "a"))

    asyncio.run(begin())
    code, findings = told("--journal", dsn)
    assert code == 0
    assert of(findings, "schema")[0][1].startswith("PostgreSQL ")
    assert worst(findings, "journal") == "ok"


def test_a_server_that_cannot_prepare_or_forgets_is_bad(told: Any) -> None:
    with PostgresCluster(max_prepared_transactions=0, full_page_writes="off") as server:
        dsn = server.dsn(server.create_database())

        async def begin() -> None:
            async with CoordinationService({"a": Ledger("a")}, journal=dsn):
                pass

        asyncio.run(begin())
        code, findings = told("--journal", dsn, "--store", f"bank=postgres:{dsn}")
    assert code == 1
    assert "max_prepared_transactions is 0" in str(of(findings, "store bank"))
    assert "full_page_writes is off" in str(of(findings, "journal"))


def test_a_cluster_without_a_node_in_reach_is_bad(tmp_path: Path, told: Any) -> None:
    config = tmp_path / "c.yaml"
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "secret").write_text("one that is long enough")
    (tmp_path / "secret").chmod(0o644)
    config.write_text(
        f"coordination_service:\n  node_id: a\n  secret_file: {tmp_path / 'secret'}\n"
        f"  data_dir: {tmp_path / 'data'}\n"
        "  consensus:\n    cluster_nodes: ['a=127.0.0.1:1', 'b=127.0.0.1:2', 'c=127.0.0.1:3']\n"
    )
    code, findings = told("--config", str(config))
    assert code == 1 and worst(findings, "quorum") == "bad"
    assert worst(findings, "node") == "warning", "others may look into its folder"
    assert worst(findings, "secret") == "bad"
    (tmp_path / "secret").chmod(0o600)
    assert of(told("--config", str(config))[1], "secret") == []


def test_quorum_is_judged_by_what_a_node_says() -> None:
    from unanimity.cli.doctor_servers import _quorum

    voter = {"id": "a", "address": "h:1", "role": "voter", "lag": None}
    status = {
        "node_id": "a",
        "leader_id": "a",
        "trouble": None,
        "members": [voter, {**voter, "id": "b", "lag": 5_000}],
    }
    severities = [finding.severity for finding in _quorum(status)]
    assert severities == ["ok", "note", "warning"]
    assert next(_quorum({**status, "leader_id": None})).severity == "bad"
    assert next(_quorum({**status, "trouble": "no majority is in reach"})).severity == "bad"
