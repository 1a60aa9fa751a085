"""Nothing is left behind by calls, and nothing by services.

The bounds. A journal in memory keeps the history of its coordinations by design, so calls on one
grow by what its rows take (measured: about 3 KiB for two stores), and by nothing else: tasks,
objects that Python's collector knows, and descriptors stay as they are. On a file the history is
on the disk; what grows is what the journal has yet to bring into its tables (2.2 KiB where a busy
machine lets them fall behind by all calls), and goes again, though not all of it to the system.
"""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger, request
from unanimity import AbortResult, CommitResult, CoordinationService, PrepareRequest, PrepareResult
from unanimity.stores import MemoryStore

Make = Callable[..., CoordinationService]

AT_ONCE = 100


class Forgetful:
    """A Python store that keeps nothing, and suspends in every second prepare."""

    store_name = "left"
    prepared = 0

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        self.prepared += 1
        if self.prepared % 2:
            await asyncio.sleep(0)
        return PrepareResult("left", "COMMIT")

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        return CommitResult("left", "SUCCESS")

    async def abort_transaction(self, transaction_id: str) -> AbortResult:
        return AbortResult("left", "SUCCESS")


class Footprint:
    """What this process holds now."""

    def __init__(self) -> None:
        gc.collect()
        self.objects = len(gc.get_objects())
        self.descriptors = len(list(Path("/proc/self/fd").iterdir()))
        self.threads = len(list(Path("/proc/self/task").iterdir()))
        # Without what is mapped of files: that the system takes back when it likes.
        (resident,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
        self.bytes = int(resident) * 1_024


async def _call(service: CoordinationService, names: list[str], first: int, count: int) -> None:
    for start in range(first, first + count, AT_ONCE):
        requests = [request(f"t{start + n}", *names) for n in range(AT_ONCE)]
        for number, one in enumerate(requests):
            for operation in one.operations:
                # Each a key of its own, and the same keys in each round.
                operation["key"] = f"k{number}"
        asked = [service.coordinate_transaction(one) for one in requests]
        for result in await asyncio.gather(*asked):
            result.raise_for_state()


@pytest.mark.parametrize(
    ("stores", "journal", "calls", "bytes_each"),
    [
        (
            lambda: {"left": MemoryStore("left"), "right": MemoryStore("right")},
            "memory:",
            100_000,
            4_096,
        ),
        (lambda: {"left": Forgetful(), "right": Forgetful()}, "memory:", 20_000, 6_144),
        (lambda: {"left": Forgetful(), "right": MemoryStore("right")}, "file", 20_000, 3_072),
    ],
    ids=["native stores", "Python stores", "a journal on disk"],
)
def test_calls_leave_nothing_behind(
    stores: Callable[[], dict[str, Any]],
    journal: str,
    calls: int,
    bytes_each: int,
    tmp_path: Path,
) -> None:
    place = str(tmp_path / "journal.db") if journal == "file" else journal

    async def scenario() -> None:
        async with CoordinationService(stores(), journal=place) as service:
            # The first tenth fills caches and pools.
            await _call(service, ["left", "right"], 0, calls // 10)
            tasks, before = len(asyncio.all_tasks()), Footprint()
            await _call(service, ["left", "right"], calls // 10, calls - calls // 10)
            counted = calls - calls // 10
            after = Footprint()
            for _ in range(50):
                if after.bytes - before.bytes < bytes_each * counted:
                    break
                # The journal still brings its tables up to date with the last calls.
                await asyncio.sleep(0.1)
                after = Footprint()
            assert abs(len(asyncio.all_tasks()) - tasks) <= AT_ONCE
            assert after.objects - before.objects < 1_000
            # The log's next segment and the tables' own log are opened when they are needed first.
            assert after.descriptors <= before.descriptors + 4
            assert after.threads <= before.threads + 2
            assert after.bytes - before.bytes < bytes_each * counted

    asyncio.run(scenario())


def test_services_leave_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def one(number: int) -> None:
            stores = {"left": Ledger("left"), "right": MemoryStore("right")}
            async with CoordinationService(stores, journal=tmp_path / "journal.db") as service:
                result = await service.coordinate_transaction(request(f"t{number}"))
                assert result.success

        for number in range(10):
            await one(number)
        before = Footprint()
        for number in range(10, 110):
            await one(number)
        after = Footprint()
        assert after.descriptors <= before.descriptors + 2
        assert after.threads <= before.threads + 2
        assert after.objects - before.objects < 1_000
        assert after.bytes - before.bytes < 100 * 256 * 1_024

    asyncio.run(scenario())
