"""Recovery: how long from `start()` until everything that a killed process left is resolved.

The stores are Python ones that share a SQLite file; half of the coordinations are decided, half
are not. What they hold in the end is checked: all of the decided ones, none of the others.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

from durable_stores import DurableStore, open_file
from measure import Case, Row, main

from unanimity import CoordinationService


def _leave_behind(folder: Path, count: int) -> None:
    program = [sys.executable, "-m", "cases.left_behind", str(folder), str(count)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode != -9:
        raise AssertionError(f"it was not killed: {done.stderr}")


async def recover(case: Case) -> Row:
    """Leave `case.count` behind, and clean up."""
    _leave_behind(case.folder, case.count)
    connection = open_file(case.folder / "stores.db")
    stores = {name: DurableStore(name, connection) for name in ("left", "right")}
    left_open = len(stores["left"].staged)
    if left_open != case.count:
        raise AssertionError(f"{left_open} of {case.count} were left open")
    service = CoordinationService(stores, journal=case.folder / "journal.db")
    cpu, started = time.process_time(), time.perf_counter()
    await service.start()
    starting = time.perf_counter() - started
    for store in stores.values():
        await store.resolved.wait()
    while await service.list_active_coordinations():
        await asyncio.sleep(0.001)
    elapsed = time.perf_counter() - started
    cpu = time.process_time() - cpu
    decided = {f"key-{number}" for number in range(0, case.count, 2)}
    for store in stores.values():
        if store.shown().keys() != decided:
            raise AssertionError(f"{store.store_name} holds {len(store.shown())}")
    await service.close()
    return {
        "operations": case.count,
        "seconds": elapsed,
        "start_seconds": starting,
        "rate": case.count / elapsed,
        "cpu_us": cpu * 1e6 / case.count,
    }


if __name__ == "__main__":
    main({"unanimity": recover})
