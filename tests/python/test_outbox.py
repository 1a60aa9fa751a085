"""The outbox of a PostgreSQL database: what a user's own transaction wrote is carried out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest

from postgres_cluster import PostgresCluster
from unanimity import CoordinationRequest, CoordinationService, CoordinationType
from unanimity.stores import MemoryStore, PostgresStore

Make = Callable[..., CoordinationService]


def intent(name: str) -> CoordinationRequest:
    operation = {"store": "index", "type": "put", "key": name, "value": {"raw": b"\x00\xff"}}
    kind = CoordinationType.EVENTUAL_CONSISTENCY
    return CoordinationRequest(name, kind, ["index"], [operation], 60, "eventual", {"by": "ann"})


@pytest.fixture
def dsn(postgres: PostgresCluster) -> str:
    return postgres.dsn(postgres.create_database())


@asynccontextmanager
async def connected(dsn: str, driver: str) -> AsyncIterator[Any]:
    if driver == "asyncpg":
        connection: Any = await asyncpg.connect(dsn)
    else:
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    try:
        yield connection
    finally:
        await connection.close()


async def until(found: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 60
    while not await found():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.01)


async def left(connection: Any) -> int:
    query = "SELECT count(*) FROM unanimity_outbox"
    if isinstance(connection, asyncpg.Connection):
        return int(await connection.fetchval(query))
    return int((await (await connection.execute(query)).fetchone())[0])


async def table_is_there(connection: Any) -> bool:
    query = "SELECT to_regclass('unanimity_outbox') IS NOT NULL"
    if isinstance(connection, asyncpg.Connection):
        return bool(await connection.fetchval(query))
    return bool((await (await connection.execute(query)).fetchone())[0])


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_what_was_committed_is_carried_out_and_what_was_rolled_back_is_not(
    make_service: Make, dsn: str, driver: str
) -> None:
    async def scenario() -> None:
        index, rows = MemoryStore("index"), PostgresStore(dsn, "rows", serves_outbox=True)
        async with (
            make_service({"index": index, "rows": rows}) as service,
            connected(dsn, driver) as connection,
        ):
            await until(lambda: table_is_there(connection))
            with pytest.raises(RuntimeError, match="no transaction is open"):
                await rows.outbox(connection, intent("early"))
            async with connection.transaction():
                await connection.execute("CREATE TABLE person (name TEXT)")
                await connection.execute("INSERT INTO person VALUES ('ann')")
                await rows.outbox(connection, intent("done"))
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await rows.outbox(connection, intent("undone"))
                    raise ZeroDivisionError

            async def is_done() -> bool:
                return await index.get("done") is not None

            await until(is_done)
            assert await index.get("done") == {"raw": b"\x00\xff"}
            result = await service.wait_for("done", timeout=30)
            assert result.success

            async def is_empty() -> bool:
                return await left(connection) == 0

            await until(is_empty)
            assert await service.get_coordination_status("undone") is None
            assert await index.get("undone") is None

    asyncio.run(scenario())


def test_what_was_written_while_no_service_ran_is_carried_out_by_the_next(
    make_service: Make, dsn: str
) -> None:
    async def scenario() -> None:
        async with connected(dsn, "asyncpg") as connection:
            first = PostgresStore(dsn, "rows", serves_outbox=True)
            async with make_service({"index": MemoryStore("index"), "rows": first}):
                await until(lambda: table_is_there(connection))
            async with connection.transaction():
                await first.outbox(connection, intent("later"))
            assert await left(connection) == 1
            index = MemoryStore("index")
            rows = PostgresStore(dsn, "rows", serves_outbox=True)
            async with make_service({"index": index, "rows": rows}):

                async def is_done() -> bool:
                    return await index.get("later") is not None

                await until(is_done)

    asyncio.run(scenario())


def test_what_can_never_be_carried_out_stays_with_its_reason(make_service: Make, dsn: str) -> None:
    async def scenario() -> None:
        rows = PostgresStore(dsn, "rows", serves_outbox=True)
        async with (
            make_service({"rows": rows}),
            connected(dsn, "asyncpg") as connection,
        ):
            await until(lambda: table_is_there(connection))
            async with connection.transaction():
                await rows.outbox(connection, intent("nowhere"))

            async def is_refused() -> bool:
                query = "SELECT refused FROM unanimity_outbox WHERE id = 'nowhere'"
                reason: str | None = await connection.fetchval(query)
                return reason is not None and "'index' is unknown" in reason

            await until(is_refused)
            with pytest.raises(TypeError, match="is no CoordinationRequest"):
                async with connection.transaction():
                    await rows.outbox(connection, {"id": "x"})  # type: ignore[arg-type]

    asyncio.run(scenario())
