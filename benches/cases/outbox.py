"""Outbox: from a user's own transaction in PostgreSQL to the store that is to follow it.

One operation is a transaction of the caller's that writes one row into the outbox, and the wait
until a Python store was given what the row says. Ours has it in the journal in between, retries and
remembers. The peer is what people write by hand: a task that listens, takes up to a hundred rows
with their locks, calls the store for each, deletes them, and commits; it keeps nothing, and what
the store refuses would hold up everything.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from measure import Case, Row, main, run_callers

from unanimity import CoordinationService, OperationRequest, Participant
from unanimity.stores import PostgresStore

CONNECTIONS = 16
_PORTION = 100
_WRITE = "INSERT INTO unanimity_outbox (participating_stores, operations) VALUES ($1, $2)"
_TAKE = (
    "SELECT position, operations FROM unanimity_outbox ORDER BY position LIMIT $1 "
    "FOR UPDATE SKIP LOCKED"
)
_DELETE = "DELETE FROM unanimity_outbox WHERE position = ANY ($1)"
_TABLE = """
CREATE TABLE unanimity_outbox (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    participating_stores jsonb NOT NULL, operations jsonb NOT NULL);
CREATE FUNCTION wake() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('unanimity_outbox', ''); RETURN NULL; END $$;
CREATE TRIGGER wake AFTER INSERT ON unanimity_outbox FOR EACH STATEMENT EXECUTE FUNCTION wake();
"""


class Index:
    """The store: who waits for a key hears when it comes."""

    def __init__(self) -> None:
        self._awaited: dict[str, asyncio.Future[None]] = {}

    def awaited(self, key: str) -> asyncio.Future[None]:
        """What completes when the key comes."""
        self._awaited[key] = asyncio.get_running_loop().create_future()
        return self._awaited[key]

    async def put(self, key: str) -> None:
        """Take a key."""
        self._awaited.pop(key).set_result(None)


async def _writers(case: Case, index: Index) -> tuple[list[Any], Callable[[int], Awaitable[None]]]:
    """Connections, and the operation that writes over one of them."""
    asyncpg: Any = importlib.import_module("asyncpg")
    count = min(CONNECTIONS, case.callers)
    connections = [await asyncpg.connect(case.databases[0]) for _ in range(count)]
    # Fair, as a queue is not.
    gate = asyncio.Semaphore(count)
    idle = list(connections)

    async def write(number: int) -> None:
        key = f"k{number}"
        operations = [{"store": "index", "type": "put", "key": key}]
        awaited = index.awaited(key)
        async with gate:
            connection = idle.pop()
            await connection.execute(_WRITE, '["index"]', json.dumps(operations))
            idle.append(connection)
        await awaited

    return connections, write


async def ours(case: Case) -> Row:
    """A service with a PostgresStore that serves the outbox, and a SQLite journal."""
    index, participant = Index(), Participant("index")

    @participant.operation("put")
    async def put(request: OperationRequest) -> None:
        await index.put(request.operation["key"])

    outbox = PostgresStore(case.databases[0], "people", serves_outbox=True)
    stores = {"index": participant, "people": outbox}
    async with CoordinationService(stores, journal=case.folder / "journal.db"):
        connections, write = await _writers(case, index)
        known = "SELECT to_regclass('unanimity_outbox')"
        while await connections[0].fetchval(known) is None:
            await asyncio.sleep(0.01)
        row = await run_callers(case, write)
        for connection in connections:
            await connection.close()
    return {**row, "connections": len(connections)}


async def by_hand(case: Case) -> Row:
    """A task over asyncpg, without a journal."""
    asyncpg: Any = importlib.import_module("asyncpg")
    index = Index()
    reader = await asyncpg.connect(case.databases[0])
    await reader.execute(_TABLE)
    woken = asyncio.Event()
    await reader.add_listener("unanimity_outbox", lambda *_: woken.set())

    async def deliver() -> None:
        while True:
            woken.clear()
            async with reader.transaction():
                rows = await reader.fetch(_TAKE, _PORTION)
                for row in rows:
                    await index.put(json.loads(row["operations"])[0]["key"])
                await reader.execute(_DELETE, [row["position"] for row in rows])
            if len(rows) < _PORTION:
                await woken.wait()

    delivering = asyncio.ensure_future(deliver())
    connections, write = await _writers(case, index)
    row = await run_callers(case, write)
    delivering.cancel()
    await asyncio.gather(delivering, return_exceptions=True)
    for connection in [reader, *connections]:
        await connection.close()
    return {**row, "connections": len(connections)}


if __name__ == "__main__":
    main({"unanimity, outbox": ours, "by hand, asyncpg, no journal": by_hand})
