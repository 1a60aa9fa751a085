"""PostgreSQL through the public face: a real server, with and without what it needs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger import Ledger, request
from postgres_cluster import PostgresCluster
from unanimity import CoordinationService, Outcome, StoreError, UnanimityError
from unanimity.stores import FileStore, PostgresStore

Make = Callable[..., CoordinationService]
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    """One server for this module; each test makes a database of its own."""
    with PostgresCluster() as server:
        yield server


def test_a_row_and_a_file_change_together_or_not_at_all(
    make_service: Make, cluster: PostgresCluster, tmp_path: Path
) -> None:
    dsn = cluster.dsn(cluster.create_database())

    async def scenario() -> None:
        people, papers = PostgresStore(dsn, "people"), FileStore(tmp_path / "papers", "papers")
        async with make_service({"people": people, "papers": papers}) as service:
            async with service.transaction() as tx:
                tx.add("people", "execute", statement="CREATE TABLE p (id INT PRIMARY KEY, n TEXT)")
            insert = {"store": "people", "type": "execute", "parameters": [1, "ann"]}
            insert["statement"] = "INSERT INTO p VALUES ($1, $2)"
            paper = {"store": "papers", "type": "put", "key": "1", "value": "ann"}
            first = request("t1", "people", "papers", operations=[insert, paper])
            assert (await service.coordinate_transaction(first)).outcome is Outcome.COMMITTED
            assert await people.fetch("SELECT id, n FROM p WHERE id = $1", [1]) == [
                {"id": 1, "n": "ann"}
            ]
            again = request("t2", "people", "papers", operations=[{**paper, "key": "2"}, insert])
            refused = await service.coordinate_transaction(again)
            assert refused.outcome is Outcome.ABORTED
            assert "people" in str(refused.error_message)
            assert "duplicate key" in str(refused.error_message)
            assert await papers.get("2") is None
            with pytest.raises(StoreError, match="missing") as caught:
                await people.fetch("SELECT * FROM missing")
            assert caught.value.store == "people"
            await service.wait_for("t2", timeout=10)
        await people.close()

    asyncio.run(scenario())
    assert cluster.prepared() == []


def test_a_server_without_prepared_transactions_says_what_to_change(make_service: Make) -> None:
    with PostgresCluster(max_prepared_transactions=0) as server:

        async def scenario() -> None:
            store = PostgresStore(server.dsn(), "people")
            with pytest.raises(UnanimityError, match="max_prepared_transactions") as caught:
                async with make_service({"people": store, "left": Ledger("left")}):
                    raise AssertionError("it cannot start")
            assert "people" in str(caught.value)

        asyncio.run(scenario())


def test_the_postgres_example_runs_twice(cluster: PostgresCluster, tmp_path: Path) -> None:
    dsn = cluster.dsn(cluster.create_database())
    for lines in (3, 6):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "postgres_and_files.py"), dsn, str(tmp_path / "w")],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("with its paper") == lines
        assert "refused, as it must be" in done.stdout
        assert done.stdout.endswith("never.txt exists: False\n")


def test_the_example_of_three_facts_runs_twice_and_agrees(tmp_path: Path) -> None:
    for word in ("stored", "not stored"):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "three_facts.py"), str(EXAMPLES), str(tmp_path / "w")],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert f"three_facts.py: {word}" in done.stdout
        assert done.stdout.endswith("they agree\n")
