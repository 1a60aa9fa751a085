"""`unanimity bench`: how many coordinations a second this machine, and a disk of it, can do.

Two stores of one kind, and a journal in a fresh folder that is removed afterwards. Not a comparison
and not the project's benchmarks: a number by which to see that a machine is slow. Invariant: only
what was committed is counted.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from .._exceptions import ConfigError, TransactionError
from .._service import CoordinationService
from ..stores import FileStore, MemoryStore, SqliteStore
from .output import pairs, print_json, say

_NAMES = ("left", "right")
_TABLE = "CREATE TABLE items (key TEXT PRIMARY KEY, value INTEGER)"
_INSERT = "INSERT INTO items VALUES (?, ?)"


def bench_verb(arguments: Namespace) -> int:
    """Measure, and say it; 1 if anything did not commit."""
    place = Path(arguments.into) if arguments.into is not None else Path(tempfile.gettempdir())
    if not place.is_dir():
        raise ConfigError(f"{place} is not a folder; give one on the disk that is meant")
    folder = Path(tempfile.mkdtemp(prefix=".unanimity-bench-", dir=place))
    try:
        told = asyncio.run(_Bench(folder, arguments).run())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    facts = {"folder": str(place), "stores": f"2 of {arguments.stores}", **told}
    if arguments.json:
        print_json(facts)
    else:
        say(pairs({name.replace("_", " "): value for name, value in facts.items()}))
    return 1 if told["not_committed"] else 0


class _Bench:
    """One run."""

    def __init__(self, folder: Path, arguments: Namespace) -> None:
        self._kind: str = arguments.stores
        self._callers: int = arguments.callers
        self._seconds: float = arguments.seconds
        self._stores = {name: _store(self._kind, folder, name) for name in _NAMES}
        self._service = CoordinationService(self._stores, journal=folder / "journal.db")
        self._times: list[float] = []
        self._failed = 0

    async def run(self) -> dict[str, Any]:
        async with self._service:
            if self._kind == "sqlite":
                await self._put({"type": "execute", "statement": _TABLE})
                self._times.clear()
            begin = time.perf_counter()
            until = begin + self._seconds
            await asyncio.gather(*(self._call(number, until) for number in range(self._callers)))
            took = time.perf_counter() - begin
        times = sorted(self._times) or [0.0]
        return {
            "callers": self._callers,
            "seconds": round(took, 3),
            "committed": len(self._times),
            "not_committed": self._failed,
            "per_second": round(len(self._times) / took, 1),
            "median_ms": round(times[len(times) // 2] * 1000, 3),
            "p99_ms": round(times[len(times) * 99 // 100] * 1000, 3),
        }

    async def _call(self, caller: int, until: float) -> None:
        number = 0
        while time.perf_counter() < until:
            number += 1
            key = f"{caller}-{number}"
            if self._kind == "sqlite":
                parameters = [key, number]
                operation = {"type": "execute", "statement": _INSERT, "parameters": parameters}
            else:
                operation = {"type": "put", "key": key, "value": str(number)}
            await self._put(operation)

    async def _put(self, operation: dict[str, Any]) -> None:
        begin = time.perf_counter()
        try:
            async with self._service.transaction() as tx:
                for name in _NAMES:
                    tx.add(name, **operation)
        except TransactionError:
            self._failed += 1
        else:
            self._times.append(time.perf_counter() - begin)


def _store(kind: str, folder: Path, name: str) -> Any:
    if kind == "memory":
        return MemoryStore(name)
    if kind == "files":
        return FileStore(folder / name, name)
    return SqliteStore(folder / f"{name}.db", name)
