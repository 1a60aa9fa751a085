"""W3n: two-phase commit over two native MemoryStores, with a SQLite journal.

`sustained` does many in one journal: the tables of the history are written behind the log, so the
rate of a burst and the rate that can be kept up differ. Both are measured.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import time

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
    """Run `case.count` coordinations; compare the last tenth with the first."""
    service = await _service(case)
    numbers = iter(range(case.count))
    ends: list[float] = []
    latencies: list[float] = []
    clock = time.perf_counter

    async def caller() -> None:
        for number in numbers:
            began = clock()
            result = await service.coordinate_transaction(put_request(number))
            ended = clock()
            if not result.success:
                raise AssertionError(result.error_message)
            ends.append(ended)
            latencies.append(ended - began)

    cpu, started = time.process_time(), clock()
    await asyncio.gather(*itertools.starmap(caller, [()] * case.callers))
    elapsed = clock() - started
    await service.history(limit=1)
    settled = clock() - started
    cpu = time.process_time() - cpu
    await service.close()
    tenth = max(1, case.count // 10)
    first, last = ends[tenth - 1] - started, ends[-1] - ends[-1 - tenth]
    return {
        "operations": case.count,
        "seconds": elapsed,
        "rate": case.count / elapsed,
        "settled_rate": case.count / settled,
        "first_tenth_rate": tenth / first,
        "last_tenth_rate": tenth / last,
        "cpu_us": cpu * 1e6 / case.count,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "journal_mib": sum(path.stat().st_size for path in case.folder.iterdir()) / 2**20,
        **percentiles(latencies),
    }


if __name__ == "__main__":
    main({"unanimity": burst, "unanimity, sustained": sustained})
