"""Works while the journal can grow no more, until that was told, then with room again.

`full_disk_alert.py FOLDER`; the limit is that of `full_disk.py`. Prints the alerts about the
journal.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from unanimity import (
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    IAlertingService,
)
from unanimity.stores import MemoryStore

# Without a handler the system would end the process instead of failing the write.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
LIMIT = 60.0
ALERTS = {"evaluation_interval_seconds": 0.02, "resolve_after_seconds": 0.1}


class Printed(IAlertingService):
    """Prints the alerts about the journal."""

    def __init__(self) -> None:
        self.heard = {"firing": asyncio.Event(), "resolved": asyncio.Event()}

    async def send_alert(
        self, severity: str, title: str, message: str, details: dict[str, Any]
    ) -> None:
        """Take one."""
        if details.get("alert") == "journal":
            print(f"{severity}: {title}")
            self.heard[details["state"]].set()


def request(name: str) -> CoordinationRequest:
    """Put a long value into the store."""
    put = {"store": "one", "type": "put", "key": name, "value": "x" * 5_000}
    return CoordinationRequest(
        name, CoordinationType.TWO_PHASE_COMMIT, ["one"], [put], 1, "session"
    )


async def until_told(service: CoordinationService, told: asyncio.Event) -> None:
    """Coordinate one after the other until it is told."""
    for number in itertools.count():
        if told.is_set():
            return
        await service.coordinate_transaction(request(f"{id(told)}-{number}"))


async def work(folder: Path) -> None:
    """Fill, be told, make room, be told."""
    printed = Printed()
    config = {"monitoring": {"alerts": ALERTS}}
    async with CoordinationService(
        {"one": MemoryStore("one")},
        journal=folder / "journal.db",
        alerting_service=printed,
        config=config,
    ) as service:
        assert (await service.coordinate_transaction(request("good"))).success
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        await asyncio.wait_for(until_told(service, printed.heard["firing"]), LIMIT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await asyncio.wait_for(until_told(service, printed.heard["resolved"]), LIMIT)


asyncio.run(work(Path(sys.argv[1])))
