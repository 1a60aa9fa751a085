"""After the decision: stores that are silent, stores that contradict, operators, restarts.

Real journal and stores. A coordination that is decided is delivered until it is done; only a
store's own contrary final word stops that, and only an operator ends it then.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crash.world import World
from ledger import Ledger, request
from postgres_cluster import PostgresCluster
from unanimity import (
    CommitResult,
    CoordinationService,
    Outcome,
    PrepareRequest,
    TransactionFailed,
    TransactionState,
)

Make = Callable[..., CoordinationService]
Ledgers = dict[str, Ledger]
HERE = Path(__file__).parent
QUICK = {"timeouts": {"commit_phase_timeout_seconds": 0.3}}


class Alerts:
    """An alerting service that keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send_alert(
        self, severity: str, title: str, message: str, details: dict[str, Any]
    ) -> None:
        self.sent.put_nowait(
            {"severity": severity, "title": title, "message": message, "details": details}
        )


class HangingLedger(Ledger):
    """One whose commit does not return while it is told to hang."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.hangs = True

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        if self.hangs:
            self.calls.append(("commit", transaction_id))
            await asyncio.Event().wait()
        return await super().commit_transaction(transaction_id)


def test_a_store_whose_commit_hangs_is_named_and_told_again(
    make_service: Make, ledgers: Ledgers
) -> None:
    hanging = HangingLedger("right")

    async def scenario() -> None:
        stores = {**ledgers, "right": hanging}
        async with make_service(stores, config=QUICK) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert (result.success, result.final_state) == (True, TransactionState.COMMITTING)
            assert "'right'" in str(result.error_message)
            assert "'left'" not in str(result.error_message)
            assert result.raise_for_state() is result
            status = await service.get_coordination_status("t1")
            assert status is not None and status.final_state is TransactionState.COMMITTING
            hanging.hangs = False
            ended = await service.wait_for("t1", timeout=20)
            assert (ended.final_state, ended.error_message) == (TransactionState.COMMITTED, None)

    asyncio.run(scenario())
    assert ledgers["left"].values == hanging.values == {"k": 1}


def test_a_store_that_raises_three_times_is_told_a_fourth_time(
    make_service: Make, ledgers: Ledgers
) -> None:
    class Stubborn(Ledger):
        async def commit_transaction(self, transaction_id: str) -> CommitResult:
            if self.asked("commit") < 3:
                self.calls.append(("commit", transaction_id))
                raise ConnectionResetError("try again")
            return await super().commit_transaction(transaction_id)

    stubborn = Stubborn("right")

    async def scenario() -> None:
        async with make_service({**ledgers, "right": stubborn}) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert (result.success, result.final_state) == (True, TransactionState.COMMITTED)

    asyncio.run(scenario())
    assert stubborn.asked("commit") == 4
    assert stubborn.values == {"k": 1}


def test_a_silent_store_is_told_by_the_next_service(make_service: Make, ledgers: Ledgers) -> None:
    ledgers["right"].commit_answer = OSError("gone fishing")

    async def first() -> None:
        service = make_service(ledgers, config=QUICK)
        result = await service.coordinate_transaction(request("t1"))
        assert result.final_state is TransactionState.COMMITTING
        await service.close(timeout=0.1)

    async def second() -> None:
        async with make_service(ledgers, config=QUICK) as service:
            status = await service.get_coordination_status("t1")
            assert status is not None
            assert (status.success, status.final_state) == (True, TransactionState.COMMITTING)
            assert await service.list_active_coordinations() == ["t1"]
            ledgers["right"].commit_answer = None
            ended = await service.wait_for("t1", timeout=20)
            assert ended.final_state is TransactionState.COMMITTED

    asyncio.run(first())
    asyncio.run(second())
    assert ledgers["left"].values == ledgers["right"].values == {"k": 1}


def test_a_contrary_word_raises_an_alert_and_survives_restarts_until_it_is_resolved(
    make_service: Make, ledgers: Ledgers
) -> None:
    ledgers["right"].commit_answer = CommitResult("right", "FAILED", "disk on fire")
    alerts = Alerts()

    async def first() -> None:
        async with make_service(ledgers, alerting_service=alerts) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert (result.outcome, result.success) == (Outcome.HEURISTIC, False)
            assert result.final_state is TransactionState.FAILED
            assert "manual intervention required" in str(result.error_message)
            assert "'right'" in str(result.error_message)
            with pytest.raises(TransactionFailed):
                result.raise_for_state()
            alert = await asyncio.wait_for(alerts.sent.get(), 10)
            assert (alert["severity"], alert["title"]) == ("high", "Manual intervention required")
            assert "disk on fire" in alert["message"]
            assert alert["details"]["coordination_id"] == "t1"
            (row,) = await service.history()
            assert (row.coordination_id, row.state) == ("t1", TransactionState.FAILED)
            assert "disk on fire" in str(row.error_message)

    async def second() -> None:
        async with make_service(ledgers) as service:
            status = await service.get_coordination_status("t1")
            assert status is not None
            assert (status.outcome, status.final_state) == (
                Outcome.HEURISTIC,
                TransactionState.FAILED,
            )
            assert "disk on fire" in str(status.error_message)
            waited = await service.wait_for("t1", timeout=10)
            assert waited.outcome is Outcome.HEURISTIC
            resolved = await service.resolve("t1", "commit", "repaired by hand")
            assert (resolved.success, resolved.final_state) == (True, TransactionState.COMMITTED)
            assert "repaired by hand" in str(resolved.error_message)
            assert await service.list_active_coordinations() == []

    async def third() -> None:
        async with make_service(ledgers) as service:
            status = await service.get_coordination_status("t1")
            assert status is not None and status.final_state is TransactionState.COMMITTED
            assert await service.list_active_coordinations() == []

    for scenario in (first, second, third):
        asyncio.run(scenario())


def test_an_alerting_service_that_raises_or_hangs_changes_nothing(
    make_service: Make, ledgers: Ledgers
) -> None:
    class Broken:
        def __init__(self, hangs: bool) -> None:
            self.hangs = hangs

        async def send_alert(self, **_: Any) -> None:
            if self.hangs:
                await asyncio.Event().wait()
            raise ConnectionError("no alerts today")

    async def scenario(hangs: bool) -> None:
        ledgers["right"].commit_answer = CommitResult("right", "FAILED", "no")
        broken = Broken(hangs)
        service = make_service(ledgers, alerting_service=broken, journal="memory:")
        result = await service.coordinate_transaction(request("t1"))
        assert result.outcome is Outcome.HEURISTIC
        ledgers["right"].commit_answer = None
        assert (await service.coordinate_transaction(request("t2"))).success
        await asyncio.wait_for(service.close(timeout=1), 10)

    asyncio.run(scenario(hangs=False))
    asyncio.run(scenario(hangs=True))


def _killed_in_doubt(tmp_path: Path, postgres: PostgresCluster) -> World:
    """A world in which a process died between the last vote and its decision."""
    database = postgres.create_database()
    postgres.query(database, "CREATE TABLE facts (name text PRIMARY KEY)")
    world = World(tmp_path / "world", postgres.dsn(database), "facts", "blind")
    world.make()
    armed = {**os.environ, "PYTHONPATH": str(HERE), "UNANIMITY_CRASH_AT": "before_record:decision"}
    command = [sys.executable, "-m", "crash.child", *world.arguments(), "", "1", "1"]
    ended = subprocess.run(command, env=armed, cwd=HERE, capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return world


def _unanimity(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unanimity", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_an_operator_aborts_for_a_dead_process_and_the_next_one_follows(
    tmp_path: Path, postgres: PostgresCluster
) -> None:
    world = _killed_in_doubt(tmp_path, postgres)
    journal = str(world.journal)
    listed = json.loads(_unanimity("list", "--journal", journal, "--json").stdout)
    (name,) = [row["coordination_id"] for row in listed]
    # Whether somebody was told of an abort nobody knows, so only an abort is safe.
    refused = _unanimity("resolve", name, "commit", "--reason", "no", "--journal", journal)
    assert refused.returncode == 1
    assert "has no decision" in refused.stderr
    resolved = _unanimity("resolve", name, "abort", "--reason", "by phone", "--journal", journal)
    assert resolved.returncode == 0, resolved.stderr
    refused = _unanimity("resolve", name, "commit", "--reason", "no", "--journal", journal)
    assert refused.returncode == 1, refused.stdout

    async def scenario() -> dict[str, list[str]]:
        stores = world.stores()
        async with world.service(stores) as service:
            ended = await service.wait_for(name, timeout=20)
            assert (ended.success, ended.final_state) == (False, TransactionState.ABORTED)
            assert "by phone" in str(ended.error_message)
            return await world.facts(stores)

    facts = asyncio.run(scenario())
    assert not any(facts.values()), facts
    assert postgres.prepared() == []
    assert world.leftovers() == []


def test_a_prepare_that_answers_after_the_abort_is_undone(
    make_service: Make, ledgers: Ledgers
) -> None:
    class Late(Ledger):
        async def prepare_transaction(self, request: PrepareRequest) -> Any:
            try:
                return await super().prepare_transaction(request)
            except asyncio.CancelledError:
                # It does not let itself be stopped, and stages when nobody waits any more.
                assert self.gate is not None
                await self.gate.wait()
                self.gate = None
                return await super().prepare_transaction(request)

    late = Late("right")

    async def scenario() -> None:
        gate = late.gate = asyncio.Event()
        async with make_service({**ledgers, "right": late}) as service:
            result = await service.coordinate_transaction(request("t1", timeout_seconds=0.3))
            assert result.outcome is Outcome.ABORTED
            gate.set()
            ended = await service.wait_for("t1", timeout=20)
            assert ended.final_state is TransactionState.ABORTED
            deadline = asyncio.get_running_loop().time() + 20
            while late.staged or late.asked("prepare") < 1:
                assert asyncio.get_running_loop().time() < deadline, "it stays staged"
                await service.recover()
                await asyncio.sleep(0.02)

    asyncio.run(scenario())
    assert (late.values, ledgers["left"].values) == ({}, {})
    assert (late.staged, ledgers["left"].staged) == ({}, {})
