"""W1's peer absurd: tasks of three steps in PostgreSQL, worked on by a few connections.

The SDK's own worker asks for tasks every 250 ms and a caller for his result every 50 ms or more.
Here the callers, who are in the same process, wake an idle worker, and a worker wakes the callers
of the batch that it has done: that is what the documented calls can do at best. Runs in the peers'
environment, without the package; the schema is the one that django-absurd ships.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import os
from typing import Any

from measure import Case, Row, main, run_callers
from three_steps import NAMES, Counted

# The variables are there to try it again.
_WORKERS = int(os.environ.get("BENCH_ABSURD_WORKERS", "4"))
_BATCH = int(os.environ.get("BENCH_ABSURD_BATCH", "4"))


class Workers:
    """Connections that work on what was spawned, each on its own batch."""

    def __init__(self, counted: Counted) -> None:
        """Make no connection yet."""
        self._counted = counted
        self._spawned = asyncio.Event()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[Any] = []
        self._spawners: list[Any] = []

    async def open(self, database: str, workers: int) -> None:
        """Connect, and begin to work."""
        self._spawners = [self._connected(database) for _ in range(workers)]
        await self._spawners[0].create_queue("default")
        for _ in range(workers):
            worked: list[int] = []
            client = self._worker(database, worked)
            self._tasks.append(asyncio.create_task(self._work(client, worked)))

    def _connected(self, database: str) -> Any:
        """A client; it connects when it is first used."""
        client: Any = importlib.import_module("absurd_sdk").AsyncAbsurd(database)
        self._clients.append(client)
        return client

    def _worker(self, database: str, worked: list[int]) -> Any:
        """A client whose tasks' numbers are told to `worked`."""
        client = self._connected(database)

        async def trip(params: dict[str, int], context: Any) -> list[object]:
            number = params["number"]
            results = []
            for name in NAMES:

                async def step(name: str = name) -> object:
                    return self._counted.done(name, number)

                results.append(await context.step(name, step))
            worked.append(number)
            return results

        client.register_task(name="trip")(trip)
        return client

    async def _work(self, client: Any, worked: list[int]) -> None:
        try:
            await self._batches(client, worked)
        except Exception as error:
            for waiting in self._waiting.values():
                waiting.set_exception(error)
            raise

    async def _batches(self, client: Any, worked: list[int]) -> None:
        while True:
            self._spawned.clear()
            await client.work_batch(batch_size=_BATCH)
            if not worked:
                await self._spawned.wait()
            # A batch is over when its last task is committed as completed.
            while worked:
                self._waiting.pop(worked.pop()).set_result(None)

    async def saga(self, number: int) -> None:
        """Spawn a task, and wait until it is completed."""
        done = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._spawners[number % len(self._spawners)].spawn(
            "trip", {"number": number}, queue="default"
        )
        self._spawned.set()
        await done

    async def close(self) -> None:
        """Stop working, and disconnect."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            await client.close()


async def _create_schema(database: str) -> None:
    psycopg: Any = importlib.import_module("psycopg")
    # As a file: to import that package would need Django.
    shipped = importlib.metadata.files("django-absurd") or []
    schema = next(file for file in shipped if file.name == "0001_initial_0_5_0.sql").read_text()
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(schema)


async def over_postgres(case: Case) -> Row:
    """A task for each operation of a caller."""
    database = case.databases[0]
    await _create_schema(database)
    counted = Counted()
    workers = Workers(counted)
    count = min(_WORKERS, case.callers)
    await workers.open(database, count)

    async def saga(number: int) -> None:
        await workers.saga(number)
        counted.ended()

    row = await run_callers(case, saga)
    await workers.close()
    counted.check(row["operations"])
    return {**row, "connections": 2 * count}


if __name__ == "__main__":
    main({"absurd": over_postgres})
