"""What every case shares: its arguments, callers on one event loop, and what is counted.

Not a workload. Invariants: every caller has exactly one operation under way; the clock runs from
the first operation after the warm-up to the end of the last; CPU time is that of the whole
process, its threads included, and apart from it that of all processes of a server.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Operation = Callable[[int], Awaitable[object]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What the driver asks of a case."""

    subject: str
    callers: int
    seconds: float
    warm_up: float
    count: int
    folder: Path
    databases: tuple[str, ...]
    postmaster: int | None


Subject = Callable[[Case], Awaitable[Row]]


def main(subjects: Mapping[str, Subject]) -> None:
    """Run the subject that the command line names, and print its row."""
    case = _arguments(list(subjects))
    row = asyncio.run(_awaited(subjects[case.subject], case))
    print(json.dumps(row))


async def _awaited(subject: Subject, case: Case) -> Row:
    return await subject(case)


def _arguments(subjects: list[str]) -> Case:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", choices=subjects, required=True)
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--warm-up", type=float, default=0.2)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--database", action="append", default=[])
    parser.add_argument("--postmaster", type=int)
    given = parser.parse_args()
    return Case(
        given.subject,
        given.callers,
        given.seconds,
        given.warm_up,
        given.count,
        given.folder,
        tuple(given.database),
        given.postmaster,
    )


async def run_callers(case: Case, operation: Operation, helper: int | None = None) -> Row:
    """Warm up, then measure `case.callers` callers for `case.seconds`.

    `helper` is the id of another process whose CPU time is the client's.
    """
    numbers = itertools.count()
    await _callers(case.callers, case.warm_up, operation, numbers)
    cpu = time.process_time() + server_cpu_seconds(helper)
    server_cpu = server_cpu_seconds(case.postmaster)
    started = time.perf_counter()
    latencies = await _callers(case.callers, case.seconds, operation, numbers)
    elapsed = time.perf_counter() - started
    cpu = time.process_time() + server_cpu_seconds(helper) - cpu
    row = {
        "operations": len(latencies),
        "seconds": elapsed,
        "rate": len(latencies) / elapsed,
        "cpu_us": cpu * 1e6 / len(latencies),
        **percentiles(latencies),
    }
    if case.postmaster is not None:
        used = server_cpu_seconds(case.postmaster) - server_cpu
        row["server_cpu_us"] = used * 1e6 / len(latencies)
    return row


async def _callers(
    callers: int, seconds: float, operation: Operation, numbers: Iterator[int]
) -> list[float]:
    latencies: list[float] = []
    clock = time.perf_counter
    until = clock() + seconds

    async def caller() -> None:
        while (started := clock()) < until:
            await operation(next(numbers))
            latencies.append(clock() - started)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return latencies


def percentiles(latencies: list[float]) -> Row:
    """Give p50 and p99 in microseconds."""
    latencies.sort()
    last = len(latencies) - 1
    return {
        "p50_us": latencies[round(last * 0.50)] * 1e6,
        "p99_us": latencies[round(last * 0.99)] * 1e6,
    }


def server_cpu_seconds(postmaster: int | None) -> float:
    """Add up the CPU time of a process and of its children; those that have ended are not in it."""
    if postmaster is None:
        return 0.0
    nanoseconds = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            # The name in parentheses may hold anything, so the parent is counted behind it.
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if postmaster in (int(path.name), parent):
                # Not the ticks of `stat`: with many processes their rounding is most of it.
                # A process's own file counts its first thread only.
                for task in (path / "task").iterdir():
                    nanoseconds += int((task / "schedstat").read_text().split()[0])
        except (OSError, ValueError):
            continue  # it has just ended
    return nanoseconds / 1e9
