"""How the command line and the history behave when a journal has grown.

    python benches/growth_cli.py [--count 1000000] [--runs 5] [--folder target/bench] [--keep]

A service writes a few coordinations of each kind, for real; then their rows are copied, in the
tables' own format, under other ids and times of the last 60 days, until there are `--count` of
them. Each command is then run as a process of its own, warm: wall time (median), processor time and
the largest memory. Not a part of `run.py`: no peer keeps such a history. Invariants: the copies
differ from what a service writes in id and times only; what is timed is the whole process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from unanimity import (
    AbortResult,
    CommitResult,
    CoordinationService,
    PrepareResult,
    TransactionError,
)
from unanimity.stores import MemoryStore

_DAYS = 60
_AT_ONCE = 20_000
# So many of a hundred are copies of what was aborted.
_ABORTED = 9


class Refusing:
    """A store that votes and acknowledges as it is told."""

    def __init__(self, name: str) -> None:
        self.store_name = name
        self.vote = "COMMIT"
        self.word = "SUCCESS"

    async def prepare_transaction(self, request: Any) -> PrepareResult:
        """Vote as it was told to."""
        return PrepareResult(self.store_name, self.vote, "no room" * (self.vote == "ABORT"))

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Give the word that it was told to give."""
        return CommitResult(self.store_name, self.word, "disk on fire")

    async def abort_transaction(self, transaction_id: str) -> AbortResult:
        """There is nothing to undo."""
        return AbortResult(self.store_name, "SUCCESS")

    async def list_prepared_transactions(self) -> list[str]:
        """Nothing is kept."""
        return []


async def write_patterns(path: Path) -> None:
    """Write one of each kind, and a few that need an operator."""
    refusing = Refusing("ledger")
    stores = {"blobs": MemoryStore("blobs"), "ledger": refusing}
    async with CoordinationService(stores, journal=path) as service:

        async def put(name: str) -> None:
            try:
                async with service.transaction(coordination_id=name) as tx:
                    tx.add("blobs", "put", key=f"documents/{name}", value="x" * 40)
                    tx.add("ledger", "book", key=name, amount=12)
            except TransactionError:
                pass

        await put("pattern-committed")
        refusing.vote = "ABORT"
        await put("pattern-aborted")
        refusing.vote, refusing.word = "COMMIT", "FAILED"
        for number in range(3):
            await put(f"operator-{number}")
        await service.close(timeout=1)


def multiply(path: Path, count: int) -> None:
    """Copy the finished ones until there are so many."""
    connection = sqlite3.connect(path, isolation_level=None)
    # Nothing of this has to survive a crash; a journal that is not whole is made again.
    connection.executescript("PRAGMA synchronous=OFF; PRAGMA cache_size=-400000")
    columns = _columns(connection, "coordination_transactions")
    operation_columns = _columns(connection, "coordination_operations")
    began = datetime.now(timezone.utc) - timedelta(days=_DAYS)
    step = timedelta(days=_DAYS) / max(1, count)
    for first in range(0, count, _AT_ONCE):
        numbers = range(first, min(count, first + _AT_ONCE))
        rows = [
            (
                "pattern-aborted" if number % 100 < _ABORTED else "pattern-committed",
                f"growth-{number:09d}",
                _text(began + step * number),
                _text(began + step * number + timedelta(milliseconds=7)),
            )
            for number in numbers
        ]
        connection.execute("BEGIN")
        connection.execute("CREATE TEMP TABLE fresh (pattern, id, began, ended)")
        connection.executemany("INSERT INTO fresh VALUES (?, ?, ?, ?)", rows)
        _copy(connection, "coordination_transactions", columns)
        _copy(connection, "coordination_operations", operation_columns)
        connection.execute("DROP TABLE fresh")
        connection.execute("COMMIT")
        print(f"\r{numbers.stop}/{count}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def _copy(connection: sqlite3.Connection, table: str, columns: list[str]) -> None:
    new = {
        "coordination_id": "fresh.id",
        "created_at": "fresh.began",
        "updated_at": "fresh.ended",
        "executed_at": "fresh.began",
        "completed_at": "fresh.ended",
        "operation_id": "replace(old.operation_id, fresh.pattern, fresh.id)",
    }
    values = ", ".join(new.get(column, f"old.{column}") for column in columns)
    connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM fresh "
        f"JOIN {table} old ON old.coordination_id = fresh.pattern ORDER BY fresh.id"
    )


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")


def measure(name: str, arguments: list[str], runs: int, expected: tuple[int, ...]) -> None:
    """Run a command so often, and print what it took."""
    walls, processor, memory = [], [], 0
    command = [str(Path(sys.executable).with_name("unanimity")), *arguments]
    for _ in range(runs):
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        walls.append(time.perf_counter() - begin)
        processor.append(usage.ru_utime + usage.ru_stime)
        memory = max(memory, usage.ru_maxrss)
        if process.returncode not in expected:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    wall, used = statistics.median(walls), statistics.median(processor)
    print(f"{name:<40} {wall:8.3f} s  {used:8.3f} s  {memory / 1024:7.0f} MiB", flush=True)


def measure_all(path: Path, runs: int) -> None:
    """Every command that a long history could slow down."""
    journal = ["--journal", str(path)]
    middle = _text(datetime.now(timezone.utc) - timedelta(days=_DAYS / 2))
    print(f"{'command':<40} {'wall':>8}    {'processor':>8}    {'memory':>9}")
    looks: list[tuple[str, list[str], tuple[int, ...]]] = [
        ("version", ["version"], (0,)),
        ("status", ["status", *journal], (1,)),
        ("list", ["list", *journal], (0,)),
        ("list --state aborted", ["list", "--state", "aborted", *journal], (0,)),
        (
            "list --state aborted --state committed",
            ["list", "--state", "aborted", "--state", "committed", *journal],
            (0,),
        ),
        ("list --until (the middle)", ["list", "--until", middle, *journal], (0,)),
        ("list --store (all have it)", ["list", "--store", "ledger", *journal], (0,)),
        ("list --store (nobody has it)", ["list", "--store", "none", *journal], (0,)),
        ("list --type (nobody has it)", ["list", "--type", "event_sourcing", *journal], (0,)),
        ("show", ["show", "growth-000000042", *journal], (0,)),
        ("stuck", ["stuck", *journal], (1,)),
        ("dead-letters", ["dead-letters", *journal], (0,)),
        ("locks", ["locks", *journal], (0,)),
        ("top --once", ["top", "--once", *journal], (0,)),
        (
            "gc --dry-run --older-than 30d",
            ["gc", "--dry-run", "--older-than", "30d", *journal],
            (0,),
        ),
        ("export --since (the last day)", ["export", "--since", _yesterday(), *journal], (0,)),
    ]
    for name, arguments, expected in looks:
        measure(name, arguments, runs, expected)
    asyncio.run(_measure_history(path))
    measure("gc --older-than 59d (a sixtieth)", ["gc", "--older-than", "59d", *journal], 1, (0,))
    measure("gc --older-than 30d (the half)", ["gc", "--older-than", "30d", *journal], 1, (0,))


def _yesterday() -> str:
    return _text(datetime.now(timezone.utc) - timedelta(days=1))


async def _measure_history(path: Path) -> None:
    """The same question in a service that runs."""
    stores = {"blobs": MemoryStore("blobs")}
    async with CoordinationService(stores, journal=path) as service:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            found = await service.history(limit=100)
            times.append(time.perf_counter() - begin)
    print(
        f"{'service.history(limit=100)':<40} {statistics.median(times):8.3f} s  {len(found)} rows"
    )


def main() -> None:
    """Build, and measure."""
    parser = argparse.ArgumentParser(description="The command line over a journal that has grown.")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("target/bench"))
    parser.add_argument("--keep", action="store_true", help="leave the journal where it is")
    parser.add_argument("--build", type=Path, metavar="PATH", help="only build a journal there")
    given = parser.parse_args()
    if given.build is not None:
        asyncio.run(write_patterns(given.build))
        multiply(given.build, given.count)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="growth-", dir=given.folder))
    try:
        path = folder / "journal.db"
        # In a process of its own: its memory would count as that of the commands.
        build = [sys.executable, __file__, "--build", str(path), "--count", str(given.count)]
        subprocess.run(build, check=True)
        print(f"{given.count} coordinations, {path.stat().st_size / 2**20:.0f} MiB at {path}")
        measure_all(path, given.runs)
    finally:
        if not given.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
