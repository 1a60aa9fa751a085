"""W1's peer DBOS: an async workflow of three async steps, called and awaited.

Its system database is SQLite in WAL mode, or PostgreSQL; both wait for the disk. Everything else is
its default. Runs in the peers' environment, without the package.
"""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

from measure import Case, Row, main, run_callers
from three_steps import NAMES, Counted

_Step = Callable[[int], Awaitable[object]]


async def _measure(case: Case, database: str) -> Row:
    dbos: Any = importlib.import_module("dbos").DBOS
    counted = Counted()
    steps = [_step(dbos, name, counted) for name in NAMES]

    async def three_steps(number: int) -> list[object]:
        return [await step(number) for step in steps]

    workflow = dbos.workflow(name="trip")(three_steps)

    async def saga(number: int) -> None:
        if len(await workflow(number)) != len(NAMES):
            raise AssertionError(f"workflow {number} did not give three results")
        counted.ended()

    dbos(config={"name": "bench-w1", "system_database_url": database, "log_level": "ERROR"})
    dbos.launch()
    row = await run_callers(case, saga)
    dbos.destroy()
    counted.check(row["operations"])
    return row


def _step(dbos: Any, name: str, counted: Counted) -> _Step:
    async def run(number: int) -> object:
        return counted.done(name, number)

    step: _Step = dbos.step(name=name)(run)
    return step


async def over_sqlite(case: Case) -> Row:
    """Over a SQLite file; WAL is a property of the file and outlives this connection."""
    path = case.folder / "dbos.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return await _measure(case, f"sqlite:///{path}")


async def over_postgres(case: Case) -> Row:
    """Over a database of PostgreSQL."""
    return await _measure(case, case.databases[0].replace("postgresql://", "postgresql+psycopg://"))


if __name__ == "__main__":
    main({"DBOS, SQLite": over_sqlite, "DBOS, PostgreSQL": over_postgres})
