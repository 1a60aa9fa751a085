"""The last resource through the public face: a store whose own commit is the decision."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from ledger import Ledger, request
from postgres_cluster import PostgresCluster
from unanimity import (
    ConfigError,
    CoordinationService,
    InvalidRequest,
    Outcome,
    PrepareResult,
    TransactionAborted,
)
from unanimity.stores import FileStore, PostgresStore, SqliteStore

Make = Callable[..., CoordinationService]
INSERT = {"store": "rows", "type": "execute", "statement": "INSERT INTO t VALUES ($1)"}
PUT = {"store": "files", "type": "put", "value": "x"}


@pytest.fixture
def dsn(unprepared: PostgresCluster) -> str:
    """A database with an empty table of its own."""
    return unprepared.database_with("CREATE TABLE t (n INT PRIMARY KEY)")


@contextlib.asynccontextmanager
async def world(make: Make, dsn: str, folder: Path) -> AsyncIterator[tuple[Any, ...]]:
    """A service over rows, whose store decides, and files, with its stores."""
    rows = PostgresStore(dsn, "rows", last_resource=True)
    files = FileStore(folder / "files", "files")
    async with make({"rows": rows, "files": files}) as service:
        yield service, rows, files
    await rows.close()


async def numbers(rows: PostgresStore) -> list[int]:
    """What is committed."""
    return [row["n"] for row in await rows.fetch("SELECT n FROM t ORDER BY n")]


def both(name: str, number: int) -> Any:
    """A row and a file of one name."""
    operations = [{**INSERT, "parameters": [number]}, {**PUT, "key": str(number)}]
    return request(name, "rows", "files", operations=operations)


def test_a_row_and_a_file_change_together_where_nothing_can_be_prepared(
    make_service: Make, dsn: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with world(make_service, dsn, tmp_path) as (service, rows, files):
            first = await service.coordinate_transaction(both("c1", 1))
            assert first.outcome is Outcome.COMMITTED, first
            assert await numbers(rows) == [1] and await files.get("1") == b"x"
            twice = both("c2", 1)
            twice.operations[1]["key"] = "2"
            refused = await service.coordinate_transaction(twice)
            assert refused.outcome is Outcome.ABORTED and "duplicate key" in str(
                refused.error_message
            )
            assert await files.get("2") is None
            found = await service.describe("c1")
            assert found.metadata["unanimity.last_resource"] == "rows"
            again = await service.coordinate_transaction(both("c1", 1))
            assert again.outcome is Outcome.COMMITTED

    asyncio.run(scenario())


def test_an_expected_number_of_rows_is_looked_at_before_the_commit(
    make_service: Make, dsn: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with world(make_service, dsn, tmp_path) as (service, rows, files):
            asked = both("c1", 1)
            asked.operations[0]["expect_rows"] = 2
            refused = await service.coordinate_transaction(asked)
            assert refused.outcome is Outcome.ABORTED and "touched 1 rows" in str(
                refused.error_message
            )
            assert await numbers(rows) == [] and await files.get("1") is None
            asked = both("c2", 1)
            asked.operations[0]["expect_rows"] = 1
            assert (await service.coordinate_transaction(asked)).success
            assert await numbers(rows) == [1]

    asyncio.run(scenario())


def test_two_last_resources_are_refused_by_name(
    make_service: Make, dsn: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        rows = PostgresStore(dsn, "rows", last_resource=True)
        lite = SqliteStore(tmp_path / "lite.db", "lite", last_resource=True)
        async with make_service({"rows": rows, "lite": lite}) as service:
            write = {"store": "lite", "type": "execute", "statement": "CREATE TABLE u (x)"}
            operations = [{**INSERT, "parameters": [1]}, write]
            asked = request("c1", "rows", "lite", operations=operations)
            refused = await service.coordinate_transaction(asked)
            assert refused.outcome is Outcome.REFUSED
            assert refused.code == "request.two_last_resources"
            assert "'rows' and 'lite'" in str(refused.error_message)
            with pytest.raises(InvalidRequest, match="'rows' and 'lite'"):
                await service.explain(asked)
            assert await numbers(rows) == []
        await rows.close()

    asyncio.run(scenario())


def test_explain_says_which_plan_and_why(
    make_service: Make, postgres: PostgresCluster, tmp_path: Path
) -> None:
    dsn = postgres.dsn(postgres.create_database())

    async def scenario() -> None:
        stores = {
            "auto": PostgresStore(dsn, "auto", last_resource="auto"),
            "lite": SqliteStore(tmp_path / "lite.db", "lite", last_resource="auto"),
            "plain": PostgresStore(dsn, "plain"),
            "files": FileStore(tmp_path / "files", "files"),
        }
        put = {"type": "put", "key": "1", "value": "x"}

        def write(store: str, statement: str = "INSERT INTO t VALUES (1)") -> dict[str, Any]:
            return {"store": store, "type": "execute", "statement": statement}

        async with make_service(stores) as service:

            async def plan(*operations: dict[str, Any]) -> Any:
                names = list(dict.fromkeys(operation["store"] for operation in operations))
                asked = request("c", *names, operations=list(operations))
                asked.consistency_level = "strong"
                return await service.explain(asked)

            alone = await plan(write("auto"))
            assert (alone.plan, alone.last_resource) == ("one_phase", "auto")
            assert alone.locks == ("intent_exclusive auto",)
            beside = await plan(write("auto"), {"store": "files", **put})
            assert (beside.plan, beside.last_resource) == ("last_resource", "auto")
            assert [part.role for part in beside.stores] == ["last resource", "prepared"]
            several = await plan(write("auto"), write("lite"))
            assert (several.plan, several.last_resource) == ("two_phase", None)
            assert "several" in several.why
            assert (await plan(write("plain"))).plan == "two_phase"
            assert (await plan(write("auto", "SELECT 1"))).plan == "read_only"
            shown = str(beside) + beside._repr_html_()
            assert "last resource" in shown and "the others prepare" in shown
            with pytest.raises(InvalidRequest, match="unknown"):
                await plan(write("nobody"))

    asyncio.run(scenario())


def test_a_sqlite_file_decides_alone_and_beside_files(make_service: Make, tmp_path: Path) -> None:
    async def scenario() -> None:
        lite = SqliteStore(tmp_path / "lite.db", "lite", last_resource=True)
        files = FileStore(tmp_path / "files", "files")
        async with make_service({"lite": lite, "files": files}) as service:
            make = {"store": "lite", "type": "execute", "statement": "CREATE TABLE t (n UNIQUE)"}
            write = {**make, "statement": "INSERT INTO t VALUES (1)"}
            alone = request("c1", "lite", operations=[make, write])
            assert (await service.coordinate_transaction(alone)).outcome is Outcome.COMMITTED
            put = {**PUT, "key": "1"}
            again = request("c2", "lite", "files", operations=[put, write])
            refused = await service.coordinate_transaction(again)
            assert refused.outcome is Outcome.ABORTED and "UNIQUE" in str(refused.error_message)
            assert await files.get("1") is None
            other = {**write, "statement": "INSERT INTO t VALUES (2)"}
            both = request("c3", "lite", "files", operations=[put, other])
            assert (await service.coordinate_transaction(both)).outcome is Outcome.COMMITTED
            assert await files.get("1") == b"x"
            assert [row["n"] for row in await lite.fetch("SELECT n FROM t")] == [1, 2]
            asked = request("c4", "lite", operations=[{**write, "statement": "SELECT 1"}])
            assert (await service.coordinate_transaction(asked)).success

    asyncio.run(scenario())


def test_who_votes_against_keeps_the_last_resource_from_being_asked(
    make_service: Make, dsn: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        refuser = Ledger("refuser")
        rows = PostgresStore(dsn, "rows", last_resource=True)
        async with make_service({"rows": rows, "refuser": refuser}) as service:
            refuser.answer = PrepareResult("refuser", "ABORT", "no room")
            no = {"store": "refuser", "type": "put", "key": "1"}
            asked = request("c1", "rows", "refuser", operations=[{**INSERT, "parameters": [1]}, no])
            assert (await service.coordinate_transaction(asked)).outcome is Outcome.ABORTED
            assert await numbers(rows) == []
            assert await rows.fetch("SELECT * FROM unanimity_decisions") == []
        await rows.close()

    asyncio.run(scenario())


# ---- a user's own transaction ---------------------------------------------------------------


@contextlib.asynccontextmanager
async def opened(driver: str, dsn: str) -> AsyncIterator[Any]:
    """A connection of a driver, and how a number is inserted on it."""
    if driver == "asyncpg":
        connection = await asyncpg.connect(dsn)
        yield connection, lambda n: connection.execute("INSERT INTO t VALUES ($1)", n)
        await connection.close()
    elif driver == "psycopg":
        with psycopg.connect(dsn) as plain:
            yield (
                plain,
                lambda n: asyncio.to_thread(plain.execute, "INSERT INTO t VALUES (%s)", (n,)),
            )
    elif driver == "psycopg async":
        async with await psycopg.AsyncConnection.connect(dsn) as waiting:
            yield waiting, lambda n: waiting.execute("INSERT INTO t VALUES (%s)", (n,))
    elif driver.startswith("sqlalchemy async"):
        engine = create_async_engine(dsn.replace("postgresql:", "postgresql+asyncpg:"))
        made = AsyncSession(engine) if driver.endswith("session") else engine.connect()
        async with made as one:
            yield one, lambda n: one.execute(text("INSERT INTO t VALUES (:n)"), {"n": n})
        await engine.dispose()
    else:
        plain_engine = create_engine(dsn.replace("postgresql:", "postgresql+psycopg:"))
        is_session = driver.endswith("session")
        with Session(plain_engine) if is_session else plain_engine.connect() as other:
            yield (
                other,
                lambda n: asyncio.to_thread(
                    other.execute, text("INSERT INTO t VALUES (:n)"), {"n": n}
                ),
            )
        plain_engine.dispose()


DRIVERS = [
    "asyncpg",
    "psycopg",
    "psycopg async",
    "sqlalchemy",
    "sqlalchemy session",
    "sqlalchemy async",
    "sqlalchemy async session",
]


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_is_done_on_an_enlisted_connection_commits_with_the_rest_or_not_at_all(
    make_service: Make, dsn: str, tmp_path: Path, driver: str
) -> None:
    async def scenario() -> None:
        async with (
            world(make_service, dsn, tmp_path) as (service, rows, files),
            opened(driver, dsn) as (connection, insert),
        ):
            for number in (1, 2):  # the connection can be used again
                async with service.transaction() as tx:
                    await tx.enlist(connection)
                    await insert(number)
                    tx.add("files", "put", key=str(number), value="x")
                assert await files.get(str(number)) == b"x"
            assert await numbers(rows) == [1, 2]
            with pytest.raises(TransactionAborted, match="3"):
                async with service.transaction() as tx:
                    await tx.enlist(connection)
                    await insert(3)
                    tx.add("files", "check", key="3", exists=True)
            with pytest.raises(ZeroDivisionError):
                async with service.transaction() as tx:
                    await tx.enlist(connection)
                    await insert(4)
                    tx.add("files", "put", key="4", value="x")
                    raise ZeroDivisionError
            async with service.transaction() as tx:
                await tx.enlist(connection)
                await insert(5)
            assert await numbers(rows) == [1, 2, 5] and await files.get("4") is None

    asyncio.run(scenario())


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_transaction_that_its_user_ended_is_refused(
    make_service: Make, dsn: str, tmp_path: Path, driver: str
) -> None:
    async def scenario() -> None:
        async with (
            world(make_service, dsn, tmp_path) as (service, _, files),
            opened(driver, dsn) as (connection, insert),
        ):
            with pytest.raises(TransactionAborted, match="has ended"):
                async with service.transaction() as tx:
                    await tx.enlist(connection)
                    tx.add("files", "put", key="1", value="x")
                    if driver == "asyncpg":
                        await connection.execute("COMMIT")
                    else:
                        ended = connection.commit()
                        if ended is not None:
                            await ended
                    await insert(1)
            assert await files.get("1") is None

    asyncio.run(scenario())


def test_what_cannot_be_enlisted_is_said(
    make_service: Make, unprepared: PostgresCluster, dsn: str, tmp_path: Path
) -> None:
    other = unprepared.dsn(unprepared.create_database())

    async def scenario() -> None:
        async with world(make_service, dsn, tmp_path) as (service, _, _):
            wrong, busy = await asyncpg.connect(other), await asyncpg.connect(dsn)
            async with service.transaction() as tx:
                with pytest.raises(ConfigError, match="same database"):
                    await tx.enlist(wrong)
                with pytest.raises(TypeError, match="does not know"):
                    await tx.enlist(object())
                with pytest.raises(ConfigError, match="'rows'"):
                    await tx.enlist(busy, store="files")
                async with busy.transaction():
                    with pytest.raises(RuntimeError, match="open on this connection already"):
                        await tx.enlist(busy)
                await tx.enlist(busy)
                with pytest.raises(RuntimeError, match="'rows' already"):
                    await tx.enlist(wrong)
                assert not wrong.is_in_transaction()
            with psycopg.connect(dsn, autocommit=True) as loose:
                async with service.transaction() as tx:
                    with pytest.raises(RuntimeError, match="autocommit"):
                        await tx.enlist(loose)
            with pytest.raises(RuntimeError, match="has ended"):
                await tx.enlist(busy)
            await wrong.close()
            await busy.close()

    asyncio.run(scenario())


def test_a_store_with_operations_of_its_own_cannot_be_enlisted(
    make_service: Make, dsn: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with world(make_service, dsn, tmp_path) as (service, rows, _):
            connection = await asyncpg.connect(dsn)
            with pytest.raises(Exception, match="run them on the connection"):
                async with service.transaction() as tx:
                    await tx.enlist(connection)
                    await connection.execute("INSERT INTO t VALUES (1)")
                    tx.add("rows", "execute", statement="INSERT INTO t VALUES (2)")
            assert await numbers(rows) == [] and not connection.is_in_transaction()
            await connection.close()

    asyncio.run(scenario())


def test_who_is_cancelled_while_he_leaves_gets_the_connection_back_idle(
    make_service: Make, dsn: str
) -> None:
    async def scenario() -> None:
        slow, rows = Ledger("slow"), PostgresStore(dsn, "rows", last_resource=True)
        slow.gate = asyncio.Event()
        connection = await asyncpg.connect(dsn)
        async with make_service({"rows": rows, "slow": slow}) as service:

            async def run() -> None:
                async with service.transaction() as tx:
                    await tx.enlist(connection)
                    await connection.execute("INSERT INTO t VALUES (1)")
                    tx.add("slow", "put", key="1", value="x")

            task = asyncio.create_task(run())
            while not slow.asked("prepare"):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not connection.is_in_transaction()
            slow.gate.set()
            assert await numbers(rows) == [] and slow.values == {}
        await connection.close()
        await rows.close()

    asyncio.run(scenario())


def test_an_id_that_ran_before_does_not_commit_an_enlisted_connection(
    make_service: Make, dsn: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with world(make_service, dsn, tmp_path) as (service, rows, _):
            connection = await asyncpg.connect(dsn)

            async def run(number: int) -> None:
                async with service.transaction(coordination_id="same") as tx:
                    await tx.enlist(connection)
                    await connection.execute("INSERT INTO t VALUES ($1)", number)

            await run(1)
            with pytest.raises(RuntimeError, match="earlier run"):
                await run(2)
            assert await numbers(rows) == [1]
            await connection.close()

    asyncio.run(scenario())


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="last_resource"):
        SqliteStore(tmp_path / "x.db", last_resource="perhaps")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="last_resource"):
        PostgresStore("postgresql://localhost", last_resource=None)  # type: ignore[arg-type]
