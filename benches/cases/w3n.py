"""W3n: two-phase commit over two native MemoryStores, with a SQLite journal.

`sustained` does many in one journal: the tables of the history are written behind the log, so the
rate of a burst and the rate that can be kept up differ. Both are measured, and a burst again when
the tables are full and have caught up.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import time
from collections.abc import Callable

from measure import Case, Row, main, percentiles, run_callers
from plain_stores import put_request

from unanimity import CoordinationService
from unanimity.stores import MemoryStore


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
    """Run `case.count` coordinations in one journal, and a burst before and after them."""
    service = await _service(case)
    numbers = itertools.count()

    async def put(number: int) -> None:
        result = await service.coordinate_transaction(put_request(number))
        if not result.success:
            raise AssertionError(result.error_message)

    async def measured(until: Callable[[], bool]) -> tuple[list[float], float]:
        """Run callers; give how long each took, and all of them."""
        latencies: list[float] = []
        clock = time.perf_counter

        async def caller() -> None:
            while not until():
                began = clock()
                await put(next(numbers))
                latencies.append(clock() - began)

        started = clock()
        await asyncio.gather(*(caller() for _ in range(case.callers)))
        return latencies, clock() - started

    async def burst_rate() -> float:
        end = time.perf_counter() + case.seconds
        latencies, seconds = await measured(lambda: time.perf_counter() >= end)
        # It answers when the tables have caught up with the log.
        await service.history(limit=1)
        return len(latencies) / seconds

    await burst_rate()
    first = await burst_rate()
    left = itertools.repeat(None, case.count)
    cpu, started = time.process_time(), time.perf_counter()
    latencies, elapsed = await measured(lambda: next(left, case) is case)
    await service.history(limit=1)
    settled = time.perf_counter() - started
    cpu = time.process_time() - cpu
    last = await burst_rate()
    await service.close()
    return {
        "operations": len(latencies),
        "seconds": elapsed,
        "rate": len(latencies) / elapsed,
        "settled_rate": len(latencies) / settled,
        "empty_rate": first,
        "full_rate": last,
        "cpu_us": cpu * 1e6 / len(latencies),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "journal_mib": sum(path.stat().st_size for path in case.folder.iterdir()) / 2**20,
        **percentiles(latencies),
    }


if __name__ == "__main__":
    main({"unanimity": burst, "unanimity, sustained": sustained})
