"""The journal in a PostgreSQL database, as users see it: shared by services, lost, and refused.

Real servers and processes. What two processes do to each other by dying is in
`test_two_processes` and `test_crash_postgres_journal`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from typing import Any

import pytest

from ledger import Ledger, request
from postgres_cluster import PostgresCluster
from unanimity import (
    CommitResult,
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    JournalError,
    Outcome,
    TransactionState,
)

ENOUGH = 50
LANES = 8


@pytest.fixture
def journal(postgres: PostgresCluster) -> str:
    """A journal of this test's own."""
    return postgres.dsn(postgres.create_database())


def ledgers() -> dict[str, Ledger]:
    return {"left": Ledger("left"), "right": Ledger("right")}


def test_two_services_on_one_journal_share_status_history_and_abort(journal: str) -> None:
    async def scenario() -> None:
        stores, others = ledgers(), ledgers()
        async with (
            CoordinationService(stores, journal=journal) as one,
            CoordinationService(others, journal=journal) as two,
        ):
            assert (await one.coordinate_transaction(request("a"))).success
            assert (await two.wait_for("a", timeout=20)).final_state is TransactionState.COMMITTED
            seen = await two.get_coordination_status("a")
            assert seen is not None and seen.final_state is TransactionState.COMMITTED
            assert [row.coordination_id for row in await two.history()] == ["a"]
            gate = stores["left"].gate = asyncio.Event()
            running = asyncio.create_task(one.coordinate_transaction(request("b")))
            while not stores["left"].calls.count(("prepare", "b")):
                await asyncio.sleep(0.01)  # until its begin stands and the store was asked
            record = await two.describe("b")
            assert record is not None and record.state is TransactionState.PREPARING
            assert await two.abort_coordination("b", "not wanted")
            gate.set()
            told = await running
            assert told.outcome is Outcome.ABORTED
            told = await two.wait_for("b", timeout=20)
            assert told.final_state is TransactionState.ABORTED
            assert "b" not in stores["left"].values and ("commit", "b") not in stores["left"].calls
            assert not await two.abort_coordination("a", "too late")
            assert not await two.abort_coordination("nobody", "there is none")

    asyncio.run(scenario())


def test_the_same_request_is_answered_by_any_service(journal: str) -> None:
    async def scenario() -> None:
        stores, others = ledgers(), ledgers()
        async with CoordinationService(stores, journal=journal) as one:
            first = await one.coordinate_transaction(request("a"))
        async with CoordinationService(others, journal=journal) as two:
            again = await two.coordinate_transaction(request("a"))
            assert again.outcome is first.outcome is Outcome.COMMITTED
            assert others["left"].calls == []

    asyncio.run(scenario())


def test_sagas_and_eventual_consistency_keep_their_steps(
    journal: str, postgres: PostgresCluster
) -> None:
    from unanimity import Participant

    shop = Participant("shop")
    seen: list[str] = []

    @shop.operation("charge")
    async def charge(asked: Any) -> dict[str, int]:
        seen.append("charge")
        return {"paid": 1}

    @charge.compensation
    async def refund(asked: Any) -> None:
        seen.append("refund")

    @shop.operation("send")
    async def send(asked: Any) -> None:
        from unanimity import Permanent

        raise Permanent("sold out")

    async def scenario() -> None:
        kind = CoordinationType.SAGA_ORCHESTRATION
        operations: list[dict[str, Any]] = [
            {"store": "shop", "type": "charge"},
            {"store": "shop", "type": "send", "compensation": None},
        ]
        async with CoordinationService({"shop": shop}, journal=journal) as service:
            asked = CoordinationRequest("s", kind, ["shop"], operations)
            told = await service.coordinate_transaction(asked)
            assert told.outcome is Outcome.ABORTED, told.error_message
            record = await service.describe("s")
            assert record is not None

    asyncio.run(scenario())
    assert seen == ["charge", "refund"]
    database = journal.rsplit("/", 1)[1]
    rows = postgres.query(
        database, "SELECT state FROM coordination_operations ORDER BY sequence_number"
    )
    assert rows == [["compensated"], ["failed"]]
    assert postgres.query(database, "SELECT count(*) FROM coordination_records") == [["0"]]


def test_what_a_server_that_comes_back_acknowledged_is_there(postgres: PostgresCluster) -> None:
    async def scenario(server: PostgresCluster) -> None:
        stores = ledgers()
        told: dict[str, Outcome] = {}
        numbers, stopping = itertools.count(), False

        async def lane(service: CoordinationService) -> None:
            while not stopping:
                name = f"t{next(numbers)}"
                told[name] = (await service.coordinate_transaction(request(name))).outcome

        async def reach(count: int) -> None:
            until = len(told) + count
            deadline = time.monotonic() + 60
            while len(told) < until and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            assert len(told) >= until, "it does not go on"

        async with CoordinationService(stores, journal=server.dsn()) as service:
            lanes = [asyncio.create_task(lane(service)) for _ in range(LANES)]
            for interrupt in (server.stop, server.kill):
                await reach(ENOUGH)
                await asyncio.to_thread(interrupt)
                await asyncio.to_thread(server.start)
            await reach(ENOUGH)
            stopping = True
            await asyncio.gather(*lanes)
            rows = {row.coordination_id: row.state for row in await service.history(limit=100_000)}
        assert set(told.values()) == {Outcome.COMMITTED}
        assert {rows[name] for name in told} == {TransactionState.COMMITTED}
        assert len(stores["left"].values) >= 1

    with PostgresCluster() as server:
        asyncio.run(scenario(server))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as people do."""
    return subprocess.run(
        [sys.executable, "-m", "unanimity", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_line_reads_and_resolves_it_and_shows_no_password(
    postgres: PostgresCluster,
) -> None:
    database = postgres.create_database()
    dsn = postgres.dsn(database).replace("postgres@", "postgres:hunter2@")
    absent = command("status", "--journal", dsn)
    assert absent.returncode == 1 and "no journal" not in absent.stdout
    assert "there is none in this database" in absent.stderr
    assert postgres.query(database, "SELECT to_regclass('journal_meta')") in ([[""]], [])
    stores = ledgers()
    stores["left"].commit_answer = CommitResult("left", "FAILED", "disk on fire")

    async def fill() -> None:
        service = CoordinationService(stores, journal=dsn)
        await service.coordinate_transaction(request("t1", "left"))
        assert (await service.coordinate_transaction(request("t2", "right"))).success
        await service.close(timeout=1)

    asyncio.run(fill())
    status = command("status", "--journal", dsn, "--json")
    assert status.returncode == 1, status
    assert json.loads(status.stdout)["needs_operator"] == ["t1"]
    listed = command("list", "--journal", dsn, "--json")
    assert [row["coordination_id"] for row in json.loads(listed.stdout)] == ["t2", "t1"]
    resolved = command("resolve", "t1", "commit", "--reason", "repaired", "--journal", dsn)
    shown = command("show", "t1", "--journal", dsn)
    locks = command("locks", "--journal", dsn)
    missing = command("show", "nobody", "--journal", dsn)
    assert (resolved.returncode, shown.returncode, locks.returncode) == (0, 0, 0), resolved
    assert "repaired" in shown.stdout
    assert missing.returncode == 1 and "127.0.0.1" in missing.stderr
    recovered = command("recover", "--journal", dsn, "--store", f"blobs=files:/tmp/{database}")
    assert recovered.returncode == 0, recovered
    assert command("status", "--journal", dsn).returncode == 0
    for done in (absent, status, listed, resolved, shown, locks, missing, recovered):
        assert "hunter2" not in done.stdout + done.stderr


def test_one_that_cannot_be_reached_is_an_error_with_its_name_and_no_password() -> None:
    async def scenario() -> str:
        dsn = "postgresql://ann:hunter2@127.0.0.1:1/bank"
        with pytest.raises(JournalError) as caught:
            await CoordinationService(ledgers(), journal=dsn).start()
        return str(caught.value)

    words = asyncio.run(scenario())
    assert "127.0.0.1:1" in words and "'bank'" in words and "check that the server runs" in words
    assert "hunter2" not in words


def test_events_are_refused_by_name(journal: str) -> None:
    class Reader(Ledger):
        async def apply_event(self, event: Any) -> None:
            raise AssertionError(event)

    async def scenario() -> None:
        async with CoordinationService({"left": Reader("left")}, journal=journal) as service:
            kind = CoordinationType.EVENT_SOURCING
            operation = {"store": "left", "type": "moved", "stream": "s", "data": {}}
            told = await service.coordinate_transaction(
                CoordinationRequest("e", kind, ["left"], [operation])
            )
            assert told.outcome is Outcome.REFUSED
            assert "keeps no events" in str(told.error_message)

    asyncio.run(scenario())
