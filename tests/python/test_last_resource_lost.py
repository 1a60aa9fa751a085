"""The answer of the deciding commit is lost, or the commit is, or it comes late: the row tells.

A proxy stands before the server. What the client saw is the same in all cases: a connection that
broke after the commit was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from ledger import request
from postgres_cluster import PostgresCluster
from postgres_proxy import PostgresProxy
from unanimity import CoordinationResult, CoordinationService, Outcome, TransactionAborted
from unanimity.stores import FileStore, PostgresStore

Make = Callable[..., CoordinationService]


@pytest.fixture
def dsn(unprepared: PostgresCluster) -> str:
    """A database with an empty table of its own."""
    return unprepared.database_with("CREATE TABLE t (n INT PRIMARY KEY)")


def both(name: str, timeout: float = 30) -> Any:
    """A row and a file."""
    insert = {"store": "rows", "type": "execute", "statement": "INSERT INTO t VALUES (1)"}
    put = {"store": "files", "type": "put", "key": "1", "value": "x"}
    operations = [insert, put]
    return request(name, "rows", "files", operations=operations, timeout_seconds=timeout)


def facts(dsn: str) -> tuple[list[int], list[str]]:
    """The numbers and the decisions that stand."""
    with psycopg.connect(dsn) as connection:
        numbers = [n for (n,) in connection.execute("SELECT n FROM t").fetchall()]
        rows = connection.execute("SELECT decision FROM unanimity_decisions").fetchall()
    return numbers, [decision for (decision,) in rows]


async def check_by_the_row(
    ended: CoordinationResult, files: FileStore, dsn: str, committed: bool
) -> None:
    """The end, the file and the row are what the deciding commit has come to."""
    expected = Outcome.COMMITTED if committed else Outcome.ABORTED
    assert ended.outcome is expected, ended
    assert await files.get("1") == (b"x" if committed else None)
    assert facts(dsn)[0] == ([1] if committed else [])


@pytest.mark.parametrize("mode", ["lose_answer", "lose_commit", "hold"])
def test_a_lost_answer_is_resolved_by_the_row(
    make_service: Make, unprepared: PostgresCluster, dsn: str, tmp_path: Path, mode: str
) -> None:
    with PostgresProxy(unprepared.port) as proxy:
        through = dsn.replace(f":{unprepared.port}", f":{proxy.port}")
        rows = PostgresStore(through, "rows", last_resource=True)
        files = FileStore(tmp_path / "files", "files")

        async def scenario() -> None:
            async with make_service({"rows": rows, "files": files}) as service:
                proxy.mode = mode
                result = await service.coordinate_transaction(both("c1"))
                committed = mode == "lose_answer"
                expected = Outcome.COMMITTED if committed else Outcome.ABORTED
                assert result.outcome is expected, result
                assert await files.get("1") == (b"x" if committed else None)
                told = ([1], ["COMMIT"]) if committed else ([], ["ABORT"])
                assert facts(dsn) == told
                answer = await asyncio.to_thread(proxy.send_held)
                assert mode != "hold" or b"unanimity_decisions" in answer
                assert facts(dsn) == told
            await rows.close()

        asyncio.run(scenario())


def test_while_the_row_cannot_be_read_the_caller_is_told_that_nobody_knows(
    make_service: Make, unprepared: PostgresCluster, dsn: str, tmp_path: Path
) -> None:
    with PostgresProxy(unprepared.port) as proxy:
        through = dsn.replace(f":{unprepared.port}", f":{proxy.port}")
        rows = PostgresStore(through, "rows", last_resource=True)
        files = FileStore(tmp_path / "files", "files")

        def go_down() -> None:
            proxy.is_down = True

        async def scenario() -> None:
            async with make_service({"rows": rows, "files": files}) as service:
                proxy.on_decision = go_down
                proxy.mode = "lose_answer"
                result = await service.coordinate_transaction(both("c1", timeout=2))
                assert result.outcome is Outcome.UNKNOWN
                assert "the last resource 'rows' has not said" in str(result.error_message)
                assert await files.get("1") is None
                assert not await service.abort_coordination("c1", "it takes too long")
                proxy.is_down = False
                ended = await service.wait_for("c1", timeout=60)
                assert ended.outcome is Outcome.COMMITTED
                assert await files.get("1") == b"x"
            await rows.close()

        asyncio.run(scenario())


@pytest.mark.parametrize("mode", ["lose_answer", "lose_commit"])
def test_the_next_service_goes_by_the_begin_whatever_its_options_say(
    make_service: Make, postgres: PostgresCluster, tmp_path: Path, mode: str
) -> None:
    dsn = postgres.dsn(postgres.create_database())
    with psycopg.connect(dsn) as plain:
        plain.execute("CREATE TABLE t (n INT PRIMARY KEY)")
    with PostgresProxy(postgres.port) as proxy:
        through = dsn.replace(f":{postgres.port}", f":{proxy.port}")

        def go_down() -> None:
            proxy.is_down = True

        async def scenario() -> None:
            rows = PostgresStore(through, "rows", last_resource="auto")
            files = FileStore(tmp_path / "files", "files")
            service = make_service({"rows": rows, "files": files})
            await service.start()
            proxy.on_decision = go_down
            proxy.mode = mode
            result = await service.coordinate_transaction(both("c1", timeout=1))
            assert result.outcome is Outcome.UNKNOWN
            await service.close(timeout=0)
            await rows.close()
            rows = PostgresStore(dsn, "rows")
            async with make_service({"rows": rows, "files": files}) as heir:
                ended = await heir.wait_for("c1", timeout=60)
                await check_by_the_row(ended, files, dsn, committed=mode == "lose_answer")
            await rows.close()

        asyncio.run(scenario())


@pytest.mark.parametrize("mode", ["lose_answer", "lose_commit"])
def test_the_server_is_killed_around_the_deciding_commit(
    make_service: Make, tmp_path: Path, mode: str
) -> None:
    with PostgresCluster(max_prepared_transactions=0) as server:
        dsn = server.database_with("CREATE TABLE t (n INT PRIMARY KEY)")
        with PostgresProxy(server.port) as proxy:
            through = dsn.replace(f":{server.port}", f":{proxy.port}")
            rows = PostgresStore(through, "rows", last_resource=True)
            files = FileStore(tmp_path / "files", "files")

            async def scenario() -> None:
                async with make_service({"rows": rows, "files": files}) as service:
                    proxy.on_decision = server.kill
                    proxy.mode = mode
                    result = await service.coordinate_transaction(both("c1", timeout=2))
                    assert result.outcome is Outcome.UNKNOWN
                    await asyncio.to_thread(server.start)
                    ended = await service.wait_for("c1", timeout=60)
                    await check_by_the_row(ended, files, dsn, committed=mode == "lose_answer")
                await rows.close()

            asyncio.run(scenario())


@pytest.mark.parametrize("mode", ["lose_answer", "lose_commit"])
def test_a_lost_answer_on_an_enlisted_connection_is_resolved_by_the_row(
    make_service: Make, unprepared: PostgresCluster, dsn: str, tmp_path: Path, mode: str
) -> None:
    with PostgresProxy(unprepared.port) as proxy:
        proxy.decides = lambda data: b"COMMIT;" in data
        through = dsn.replace(f":{unprepared.port}", f":{proxy.port}")
        rows = PostgresStore(dsn, "rows", last_resource=True)
        files = FileStore(tmp_path / "files", "files")

        async def scenario() -> None:
            async with make_service({"rows": rows, "files": files}) as service:
                connection = await asyncpg.connect(through)

                async def run() -> None:
                    async with service.transaction() as tx:
                        await tx.enlist(connection)
                        await connection.execute("INSERT INTO t VALUES (1)")
                        tx.add("files", "put", key="1", value="x")
                        proxy.mode = mode

                if mode == "lose_answer":
                    await run()
                    assert await files.get("1") == b"x" and facts(dsn) == ([1], ["COMMIT"])
                else:
                    with pytest.raises(TransactionAborted):
                        await run()
                    assert await files.get("1") is None and facts(dsn) == ([], ["ABORT"])
                assert connection.is_closed()
            await rows.close()

        asyncio.run(scenario())
