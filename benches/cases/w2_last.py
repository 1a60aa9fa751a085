"""W2L: a row in PostgreSQL and a file change together, with the row's commit as the decision.

Each transaction updates one row by its primary key and replaces one file of a hundred bytes; rows
and files are spread. Ours has the PostgreSQL store as the last resource, or prepared as usual. The
peer makes the two writes plainly, one after the other, each durable by itself: an UPDATE in its own
transaction, and a file that is written beside, synced, renamed and its folder synced. It keeps
nothing that could tell after a crash which of the two was made.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measure import Case, Row, main, run_callers
from plain_stores import coordination_id

from cases.w2 import OUR_CONNECTIONS, PEER_CONNECTIONS, ROWS
from unanimity import CoordinationRequest, CoordinationService, CoordinationType
from unanimity.stores import FileStore, PostgresStore

_UPDATE = "UPDATE account SET balance = balance + 1 WHERE id = $1"
_CONTENT = "x" * 100


def both(number: int) -> CoordinationRequest:
    """Ask to change one row and one file."""
    account = number % ROWS + 1
    return CoordinationRequest(
        coordination_id(number),
        CoordinationType.TWO_PHASE_COMMIT,
        ["files", "rows"],
        [
            {"store": "files", "type": "put", "key": str(account), "value": _CONTENT},
            {"store": "rows", "type": "execute", "statement": _UPDATE, "parameters": [account]},
        ],
        30,
        "session",
        {},
    )


async def last_resource(case: Case) -> Row:
    """The PostgreSQL store decides."""
    return await ours(case, is_last=True)


async def prepared(case: Case) -> Row:
    """Both are prepared, and the journal decides."""
    return await ours(case, is_last=False)


async def ours(case: Case, is_last: bool) -> Row:
    """A PostgresStore, a FileStore, and a SQLite journal."""
    connections = max(2, min(OUR_CONNECTIONS, case.callers))
    rows = PostgresStore(
        case.databases[0], "rows", max_connections=connections, last_resource=is_last
    )
    stores = {"rows": rows, "files": FileStore(case.folder / "files", "files")}

    async def change(number: int) -> None:
        result = await service.coordinate_transaction(both(number))
        if not result.success:
            raise AssertionError(result.error_message)

    async with CoordinationService(stores, journal=str(case.folder / "journal.db")) as service:
        row = await run_callers(case, change)
    return {**row, "connections": connections}


def replace_durably(folder: Path, key: str) -> None:
    """Write beside, sync, rename, sync the folder."""
    beside = folder / f"{key}.new"
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(file, _CONTENT.encode())
    os.fdatasync(file)
    os.close(file)
    beside.rename(folder / key)
    opened = os.open(folder, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


async def two_plain_writes(case: Case) -> Row:
    """An UPDATE by asyncpg, then a file; nobody coordinates."""
    asyncpg: Any = importlib.import_module("asyncpg")
    connections = min(PEER_CONNECTIONS, case.callers)
    folder = case.folder / "plain"
    folder.mkdir()
    threads = ThreadPoolExecutor(connections)
    loop = asyncio.get_running_loop()
    pool = await asyncpg.create_pool(case.databases[0], min_size=connections, max_size=connections)

    async def change(number: int) -> None:
        account = number % ROWS + 1
        await pool.execute(_UPDATE, account)
        await loop.run_in_executor(threads, replace_durably, folder, str(account))

    row = await run_callers(case, change)
    await pool.close()
    threads.shutdown()
    return {**row, "connections": connections}


if __name__ == "__main__":
    main(
        {
            "unanimity, last resource": last_resource,
            "unanimity, both prepared": prepared,
            "two plain writes": two_plain_writes,
        }
    )
