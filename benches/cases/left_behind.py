"""The process that recovery cleans up after: it opens coordinations and kills itself.

Even numbers are decided: prepared in both stores, the decision durable, no commit acknowledged.
Odd ones are not: prepared in the store "left", while "right" never votes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from durable_stores import DurableStore, open_file
from plain_stores import put_request

from unanimity import CommitResult, CoordinationService, PrepareRequest, PrepareResult


class SilentStore(DurableStore):
    """A store that never acknowledges a commit, and whose votes may be held back."""

    asked = 0
    """Commits of both stores."""
    withheld = 0
    """Votes that are not given."""

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        """Stage and vote, or be silent."""
        if self.store_name == "right" and request.operations[0]["value"] % 2:
            SilentStore.withheld += 1
            await asyncio.Event().wait()
        return await super().prepare_transaction(request)

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Hear it, and say nothing."""
        SilentStore.asked += 1
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")


async def main(folder: Path, count: int) -> None:
    """Open them all, wait until each is where it shall be, and die."""
    connection = open_file(folder / "stores.db")
    stores = {name: SilentStore(name, connection) for name in ("left", "right")}
    service = CoordinationService(
        stores,
        journal=folder / "journal.db",
        config={"performance": {"max_concurrent_coordinations": count}},
    )
    await service.start()
    requests = [put_request(number) for number in range(count)]
    for number, request in enumerate(requests):
        request.timeout_seconds = 300
        for operation in request.operations:
            operation["key"] = f"key-{number}"
    waiting = [asyncio.create_task(service.coordinate_transaction(each)) for each in requests]
    decided = (count + 1) // 2
    # Bounded by the driver, which ends a case that takes too long.
    while SilentStore.asked < 2 * decided or SilentStore.withheld < count // 2:
        ended = [task.result() for task in waiting if task.done()]
        if ended:
            raise AssertionError(f"{len(ended)} ended early: {ended[0]}")
        await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
