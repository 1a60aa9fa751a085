"""What plain SQL wrote into an outbox is done once, in order, whoever is killed meanwhile.

The rows leave everything out that has a default. The processes that serve share one journal and one
SQLite file, whose barrier makes that each effect counts once. Invariant: whoever is started here is
killed at the end.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from boundary.programs import line_of, start
from postgres_cluster import PostgresCluster

PATIENCE_SECONDS = 60.0
KEYS = 4
ROWS = 60

SERVER = """
from unanimity.stores import PostgresStore

async def main():
    rows = SqliteStore("effects.db", "effects")
    outbox = PostgresStore({dsn!r}, "people", serves_outbox=True)
    async with CoordinationService({{"effects": rows, "people": outbox}}, journal="journal.db"):
        print("serves", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


def insert(number: int) -> tuple[str, tuple[str, ...]]:
    """An effect that is a line of its own each time it happens."""
    statement = "INSERT INTO effect (number, key) VALUES (?, ?)"
    key = f"k{number % KEYS}"
    operation = {
        "store": "effects",
        "type": "execute",
        "key": key,
        "statement": statement,
        "parameters": [number, key],
    }
    text = (
        "INSERT INTO unanimity_outbox (id, participating_stores, operations) "
        "VALUES (%s, '[\"effects\"]', %s)"
    )
    return text, (f"r{number}", json.dumps([operation]))


def until(found: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not found():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


@pytest.fixture
def dsn(postgres: PostgresCluster) -> str:
    return postgres.dsn(postgres.create_database())


@pytest.fixture
def effects(tmp_path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(tmp_path / "effects.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE effect (n INTEGER PRIMARY KEY, number INTEGER, key TEXT)")
    return connection


def holds(connection: psycopg.Connection, query: str) -> Callable[[], bool]:
    return lambda: connection.execute(query).fetchone() == (True,)


def has_done(effects: sqlite3.Connection, count: int) -> Callable[[], bool]:
    return lambda: len(done(effects)) >= count


IS_THERE = "SELECT to_regclass('unanimity_outbox') IS NOT NULL"
IS_EMPTY = "SELECT NOT EXISTS (SELECT FROM unanimity_outbox)"


def done(effects: sqlite3.Connection) -> list[tuple[int, str]]:
    return effects.execute("SELECT number, key FROM effect ORDER BY n").fetchall()


def by_key(rows: list[tuple[int, str]]) -> dict[str, list[int]]:
    return {
        f"k{key}": [number for number, name in rows if name == f"k{key}"] for key in range(KEYS)
    }


def test_each_row_is_done_once_and_in_the_order_of_its_key_whatever_is_killed(
    dsn: str, effects: sqlite3.Connection, tmp_path: Path
) -> None:
    source = SERVER.format(dsn=dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        written = 0
        for _ in range(6):
            with start(source, tmp_path) as process:
                line_of(process, "serves")
                until(holds(connection, IS_THERE), "the table is there")
                for number in range(written, written + ROWS):
                    connection.execute(*insert(number))
                written += ROWS
                # Killed in the middle of its work, most times.
                seen = written - ROWS // 2
                until(has_done(effects, seen), "half of the rows are done")
                process.kill()
                process.wait()
        with start(source, tmp_path) as process:
            until(holds(connection, IS_EMPTY), "the outbox is empty")
            until(has_done(effects, written), "all is done")
        rows = done(effects)
        assert sorted(number for number, _ in rows) == list(range(written)), "each of them once"
        assert by_key(rows) == {f"k{key}": list(range(key, written, KEYS)) for key in range(KEYS)}


def test_two_processes_that_serve_one_outbox_do_each_row_once_though_they_are_killed(
    dsn: str, effects: sqlite3.Connection, tmp_path: Path
) -> None:
    source = SERVER.format(dsn=dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        written = 0
        with start(source, tmp_path) as survivor:
            line_of(survivor, "serves")
            for _ in range(4):
                with start(source, tmp_path) as process:
                    line_of(process, "serves")
                    with connection.transaction():
                        for number in range(written, written + ROWS):
                            connection.execute(*insert(number))
                    written += ROWS
                    seen = written - ROWS // 2
                    until(has_done(effects, seen), "half of the rows are done")
                    process.kill()
                    process.wait()
            until(has_done(effects, written), "all is done")
            until(holds(connection, IS_EMPTY), "the outbox is empty")
        assert sorted(number for number, _ in done(effects)) == list(range(written))
