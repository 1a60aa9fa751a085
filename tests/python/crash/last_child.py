"""Coordinates with a last resource until it is killed, and recovers what another one left.

`python -m crash.last_child work|enlist|heir FOLDER PLACE`: PLACE is the address of a PostgreSQL
database, or the path of a SQLite file; "enlist" works on a connection of its own. What it is told
it writes down, durably, before it goes on. Invariant: the heir reports; the test judges.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg

from unanimity import CoordinationRequest, CoordinationService, CoordinationType
from unanimity.stores import FileStore, PostgresStore, SqliteStore

COUNT = 40
PATIENCE = 20.0


class LastWorld:
    """A store that decides, a folder of files beside it, and one that is only looked at."""

    def __init__(self, folder: Path, place: str) -> None:
        self.folder = folder
        self.rows: Any
        self.is_postgres = place.startswith("postgresql:")
        if self.is_postgres:
            self.rows = PostgresStore(place, "rows", last_resource=True)
        else:
            self.rows = SqliteStore(place, "rows", last_resource=True)
        self.files = FileStore(folder / "files", "files")
        self.looks = SqliteStore(folder / "looks.db", "looks")
        self.told = folder / "told"

    def service(self) -> CoordinationService:
        """A service over all three."""
        stores = {"rows": self.rows, "files": self.files, "looks": self.looks}
        return CoordinationService(stores, journal=self.folder / "journal.db")

    def request(self, number: int) -> CoordinationRequest:
        """A row and a file of one name."""
        mark = "$1" if self.is_postgres else "?"
        insert = f"INSERT INTO t VALUES ({mark})"
        return CoordinationRequest(
            f"c{number}",
            CoordinationType.TWO_PHASE_COMMIT,
            ["looks", "files", "rows"],
            [
                {"store": "looks", "type": "execute", "statement": "SELECT 1"},
                {"store": "files", "type": "put", "key": str(number), "value": "x"},
                {"store": "rows", "type": "execute", "statement": insert, "parameters": [number]},
            ],
            30,
            "session",
        )

    async def close(self) -> None:
        """Let go of the connections."""
        for store in (self.rows, self.files, self.looks):
            await store.close()


async def work(world: LastWorld) -> None:
    """Coordinate, one after the other."""
    told = os.open(world.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    async with world.service() as service:
        for number in range(COUNT):
            result = await service.coordinate_transaction(world.request(number))
            os.write(told, f"{number} {result.outcome.value}\n".encode())
            os.fsync(told)


async def enlist(world: LastWorld, dsn: str) -> None:
    """Coordinate with a connection of its own, one after the other."""
    told = os.open(world.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    connection = await asyncpg.connect(dsn)
    async with world.service() as service:
        for number in range(COUNT):
            async with service.transaction(coordination_id=f"c{number}") as tx:
                await tx.enlist(connection)
                await connection.execute("INSERT INTO t VALUES ($1)", number)
                tx.add("files", "put", key=str(number), value="x")
            os.write(told, f"{number} committed\n".encode())
            os.fsync(told)


async def judge(world: LastWorld) -> dict[str, Any]:
    """Recover, look, and commit something new."""
    deadline = time.monotonic() + PATIENCE
    async with world.service() as service:
        while True:
            await service.recover()
            left = await service.list_active_coordinations()
            left += await world.files.list_prepared_transactions()
            if not left or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        fresh = await service.coordinate_transaction(world.request(1000))
        rows = [row["n"] for row in await world.rows.fetch("SELECT n FROM t ORDER BY n")]
        history = await service.history(limit=1000)
        return {
            "left": left,
            "rows": rows,
            "fresh": fresh.outcome.value,
            "states": {row.coordination_id: row.state.value for row in history},
        }


async def main() -> None:
    """Do what the arguments say."""
    role, folder, place = sys.argv[1:]
    world = LastWorld(Path(folder), place)
    if role == "work":
        await work(world)
    elif role == "enlist":
        await enlist(world, place)
    else:
        print(json.dumps(await judge(world)))
    await world.close()


if __name__ == "__main__":
    asyncio.run(main())
