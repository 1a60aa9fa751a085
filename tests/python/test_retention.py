"""Finished coordinations go after a while, open ones never by age; the settings that say so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger, request
from postgres_cluster import PostgresCluster
from unanimity import CommitResult, ConfigError, CoordinationConfig, CoordinationService

MakeService = Callable[..., CoordinationService]


async def _put(service: CoordinationService, key: str) -> str:
    async with service.transaction() as tx:
        for store in ("left", "right"):
            tx.add(store, "put", key=key, value=1)
    assert tx.result is not None
    return tx.result.coordination_id


def test_what_is_older_than_the_retention_is_removed_by_a_timer(
    make_service: MakeService, ledgers: dict[str, Ledger]
) -> None:
    async def run() -> None:
        settings = {"finished_days": 1e-6, "retention_interval_seconds": 0.05}
        async with make_service(dict(ledgers), config={"retention": settings}) as service:
            old = await _put(service, "a")
            for _ in range(1500):
                if await service.describe(old) is None:
                    break
                await asyncio.sleep(0.02)
            assert len(await service.history()) == 0

    asyncio.run(run())


@pytest.mark.parametrize("settings", [{}, {"retention": {"finished_days": None}}])
def test_by_default_and_for_ever_a_fresh_history_stays(
    make_service: MakeService, ledgers: dict[str, Ledger], settings: dict[str, Any]
) -> None:
    async def run() -> None:
        if settings:
            settings["retention"]["retention_interval_seconds"] = 0.01
        async with make_service(dict(ledgers), config=settings) as service:
            ids = [await _put(service, str(number)) for number in range(5)]
            assert [record.coordination_id for record in await service.history()] == ids[::-1]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"retention": {"finished_days": 0}}, "finished_days"),
        ({"retention": {"finished_days": "30"}}, "finished_days"),
        ({"retention": {"days": 30}}, "finished_days"),
        ({"recovery": {"orphan_interval_seconds": None}}, "orphan_interval_seconds"),
        ({"performance": {"max_queued_coordinations": 1.5}}, "max_queued_coordinations"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CoordinationService({}, journal="memory:", config=settings)


@pytest.mark.parametrize("kind", ["file", "memory", "postgresql"])
def test_every_kind_of_journal_removes_what_is_old_and_never_what_is_open(
    kind: str, postgres: PostgresCluster, tmp_path: Path
) -> None:
    dsn = postgres.dsn(postgres.create_database()) if kind == "postgresql" else ""
    journal = {"file": str(tmp_path / "journal.db"), "memory": "memory:"}.get(kind, dsn)
    ledgers = {"left": Ledger("left"), "right": Ledger("right")}

    async def run() -> None:
        config = {"retention": {"finished_days": 1e-6, "retention_interval_seconds": 0.05}}
        async with CoordinationService(dict(ledgers), journal=journal, config=config) as service:
            ledgers["left"].commit_answer = CommitResult("left", "FAILED", "disk on fire")
            waiting = await service.coordinate_transaction(request("waiting"))
            assert waiting.final_state.value == "failed"
            ledgers["left"].commit_answer = None
            old = [await _put(service, str(number)) for number in range(20)]
            deadline = asyncio.get_running_loop().time() + 60
            while [record.coordination_id for record in await service.history()] != ["waiting"]:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.02)
            assert await service.get_coordination_status(old[0]) is None
            # An operator ends it; from then on it has an age.
            await service.resolve("waiting", "commit", "repaired")
            while await service.history():
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.02)

    asyncio.run(run())


def test_thirty_days_are_the_default_and_are_written_down() -> None:
    assert CoordinationConfig.from_mapping({}, environment={}).retention.finished_days == 30
    page = (Path(__file__).parents[2] / "docs" / "reference" / "configuration.md").read_text(
        encoding="utf-8"
    )
    assert "| `finished_days` | number, 0.000001 to 365000, `null` | `30` |" in page
