"""W2: two-phase commit over two PostgreSQL databases of one server, fsync on.

Each transaction updates one row by its primary key in each database; rows are spread, so that no
two wait for each other. Ours adds a durable decision in a SQLite journal, or in a journal in the
first of the databases, which services of many processes could share. The floor is bare
asyncpg, with BEGIN, UPDATE and PREPARE TRANSACTION as one message and no coordinator's log; the
usual way in Python is a SQLAlchemy session with `twophase=True`. The peers keep nothing that
could resolve a transaction after a crash.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
from typing import Any

from measure import Case, Row, main, run_callers
from plain_stores import coordination_id

from unanimity import CoordinationRequest, CoordinationService, CoordinationType
from unanimity.stores import PostgresStore

ROWS = 10_000
# Connections to each database: with 8 to 64 of them tried at 64 callers, these were among the best
# for each, and with more the server's CPU goes up. The variables are there to try it again.
OUR_CONNECTIONS = int(os.environ.get("BENCH_CONNECTIONS", "16"))
PEER_CONNECTIONS = int(os.environ.get("BENCH_PEER_CONNECTIONS", "32"))
_NAMES = ("left", "right")
_UPDATE = "UPDATE account SET balance = balance + 1 WHERE id = $1"


def transfer_request(number: int) -> CoordinationRequest:
    """Ask to change one row in each database."""
    return CoordinationRequest(
        coordination_id(number),
        CoordinationType.TWO_PHASE_COMMIT,
        list(_NAMES),
        [
            {
                "store": name,
                "type": "execute",
                "statement": _UPDATE,
                "parameters": [number % ROWS + 1],
            }
            for name in _NAMES
        ],
        30,
        "session",
        {},
    )


async def ours(case: Case) -> Row:
    """Two PostgresStores and a SQLite journal."""
    return await with_journal(case, str(case.folder / "journal.db"))


async def ours_shared(case: Case) -> Row:
    """Two PostgresStores and a PostgreSQL journal."""
    return await with_journal(case, f"{case.databases[0]}?options=-csearch_path%3Djournal")


async def with_journal(case: Case, journal: str) -> Row:
    """Two PostgresStores, and that journal."""
    # A PostgresStore wants two at least, because a prepare may wait for another one's commit.
    connections = max(2, min(OUR_CONNECTIONS, case.callers))
    stores = {
        name: PostgresStore(dsn, name, max_connections=connections)
        for name, dsn in zip(_NAMES, case.databases, strict=True)
    }

    async def transfer(number: int) -> None:
        result = await service.coordinate_transaction(transfer_request(number))
        if not result.success:
            raise AssertionError(result.error_message)

    async with CoordinationService(stores, journal=journal) as service:
        row = await run_callers(case, transfer)
    return {**row, "connections": connections}


async def asyncpg_one_message(case: Case) -> Row:
    """The floor: bare asyncpg, two connections for each transaction that is under way."""
    asyncpg: Any = importlib.import_module("asyncpg")
    connections = min(PEER_CONNECTIONS, case.callers)
    pairs = [[await asyncpg.connect(dsn) for dsn in case.databases] for _ in range(connections)]
    # Fair, as a queue is not: a caller that gives a pair back must not take it again at once.
    gate = asyncio.Semaphore(connections)

    async def transfer(number: int) -> None:
        async with gate:
            pair = pairs.pop()
            await on_pair(pair, number)
            pairs.append(pair)

    async def on_pair(pair: list[Any], number: int) -> None:
        account = number % ROWS + 1
        # A name is one in the whole server, so the two databases need two.
        names = [f"{coordination_id(number)}-{side}" for side in _NAMES]
        await asyncio.gather(
            *(
                each.execute(
                    f"BEGIN; UPDATE account SET balance = balance + 1 WHERE id = {account}; "
                    f"PREPARE TRANSACTION '{name}'"
                )
                for each, name in zip(pair, names, strict=True)
            )
        )
        await asyncio.gather(
            *(
                each.execute(f"COMMIT PREPARED '{name}'")
                for each, name in zip(pair, names, strict=True)
            )
        )

    row = await run_callers(case, transfer)
    for each in itertools.chain(*pairs):
        await each.close()
    return {**row, "connections": connections}


async def sqlalchemy_twophase(case: Case) -> Row:
    """An AsyncSession with `twophase=True` over two async engines of asyncpg."""
    sqlalchemy: Any = importlib.import_module("sqlalchemy")
    extension: Any = importlib.import_module("sqlalchemy.ext.asyncio")
    connections = min(PEER_CONNECTIONS, case.callers)
    engines = [
        extension.create_async_engine(
            dsn.replace("postgresql://", "postgresql+asyncpg://"),
            pool_size=connections,
            max_overflow=0,
        )
        for dsn in case.databases
    ]
    update = sqlalchemy.text("UPDATE account SET balance = balance + 1 WHERE id = :account")
    binds = [{"bind": engine.sync_engine} for engine in engines]

    async def transfer(number: int) -> None:
        account = {"account": number % ROWS + 1}
        async with gate, extension.AsyncSession(twophase=True) as session:
            for bind in binds:
                await session.execute(update, account, bind_arguments=bind)
            await session.commit()

    # Without it, two sessions that each hold one engine's last connection would wait for ever.
    gate = asyncio.Semaphore(connections)
    row = await run_callers(case, transfer)
    for engine in engines:
        await engine.dispose()
    return {**row, "connections": connections}


if __name__ == "__main__":
    main(
        {
            "unanimity": ours,
            "unanimity, PostgreSQL journal": ours_shared,
            "asyncpg, one message, no log": asyncpg_one_message,
            "SQLAlchemy twophase": sqlalchemy_twophase,
        }
    )
