"""W3n: two-phase commit over two native MemoryStores, with a SQLite journal.

`sustained` does many in one journal: the tables of the history are written behind the log, so the
rate of a burst and the rate that can be kept up differ. Both are measured, and a burst again when
the tables are full and have caught up.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from measure import Case, Row, main, percentiles, run_callers
from plain_stores import put_request

from unanimity import CoordinationService
from unanimity.stores import MemoryStore

_NUMBERS = itertools.count()
_TURNS = 5
"""Bursts in each of the two journals."""


async def _service(case: Case) -> CoordinationService:
    stores = {"left": MemoryStore("left"), "right": MemoryStore("right")}
    service = CoordinationService(stores, journal=case.folder / "journal.db")
    await service.start()
    return service


async def burst(case: Case) -> Row:
    """Run callers for some seconds."""
    service = await _service(case)

    async def put(number: int) -> None:
        result = await service.coordinate_transaction(put_request(number))
        if not result.success:
            raise AssertionError(result.error_message)

    row = await run_callers(case, put)
    started = time.perf_counter()
    # It answers when the tables have caught up with the log.
    await service.history(limit=1)
    row["settled_rate"] = row["operations"] / (row["seconds"] + time.perf_counter() - started)
    await service.close()
    return row


async def sustained(case: Case) -> Row:
    """Run `case.count` coordinations in one journal, then bursts in it and in empty ones."""
    service = await _service(case)
    left = itertools.repeat(None, case.count)
    cpu, started = time.process_time(), time.perf_counter()
    latencies, elapsed = await _measured(service, case.callers, lambda: next(left, case) is case)
    # It answers when the tables have caught up with the log.
    await service.history(limit=1)
    settled = time.perf_counter() - started
    cpu = time.process_time() - cpu
    await service.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    empty, full = await _bursts_in_turn(case)
    return {
        "operations": len(latencies),
        "seconds": elapsed,
        "rate": len(latencies) / elapsed,
        "settled_rate": len(latencies) / settled,
        "empty_rate": empty,
        "full_rate": full,
        "cpu_us": cpu * 1e6 / len(latencies),
        "memory_mib": memory,
        "journal_mib": sum(path.stat().st_size for path in case.folder.iterdir()) / 2**20,
        **percentiles(latencies),
    }


async def _bursts_in_turn(case: Case) -> tuple[float, float]:
    """The median rates of bursts in an empty journal and in the full one, with new stores each.

    What the kernel has yet to write of the filling is written first: it belongs to the filling.
    """
    os.sync()
    rates: dict[bool, list[float]] = {False: [], True: []}
    for number in range(_TURNS * 2):
        is_full = number % 2 == 1
        folder = case.folder if is_full else case.folder / f"empty-{number}"
        folder.mkdir(exist_ok=True)
        service = await _service(replace(case, folder=folder))
        rates[is_full].append(await _burst_rate(service, case))
        # What this burst left for the tables is its own, and not the next one's.
        await service.history(limit=1)
        await service.close()
        os.sync()
    return statistics.median(rates[False]), statistics.median(rates[True])


async def _burst_rate(service: CoordinationService, case: Case) -> float:
    end = time.perf_counter() + case.seconds
    latencies, seconds = await _measured(service, case.callers, lambda: time.perf_counter() >= end)
    return len(latencies) / seconds


async def _measured(
    service: CoordinationService, callers: int, until: Callable[[], bool]
) -> tuple[list[float], float]:
    """Run callers; give how long each coordination took, and all of them."""
    latencies: list[float] = []
    clock = time.perf_counter

    async def caller() -> None:
        while not until():
            began = clock()
            result = await service.coordinate_transaction(put_request(next(_NUMBERS)))
            if not result.success:
                raise AssertionError(result.error_message)
            latencies.append(clock() - began)

    started = clock()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return latencies, clock() - started


if __name__ == "__main__":
    main({"unanimity": burst, "unanimity, sustained": sustained})
