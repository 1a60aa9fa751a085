"""Journals for the tests of the command line, and ways to run it.

Not a fixture by itself. `write_story` makes one of everything that people look at: what is
committed, aborted, waits for an operator, is parked, is orphaned, and a stream of events.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ledger import Ledger, request
from unanimity import (
    CommitResult,
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    Event,
    Participant,
    PrepareResult,
    ServiceClosed,
    TransactionState,
)

PROGRAM = (sys.executable, "-m", "unanimity")
# A verb that looks at a journal, with what it needs beside; of `write_story`.
JOURNAL_VERBS: dict[str, list[str]] = {
    "status": [],
    "list": [],
    "show": ["good"],
    "stuck": [],
    "top": ["--once"],
    "doctor": [],
    "events": ["tail"],
    "locks": [],
    "dead-letters": [],
    "redrive": ["parked:0"],
    "recover": ["--store", "left=files:left"],
    "resolve": ["good", "commit", "--reason", "it is"],
    "migrate": [],
    "gc": [],
    "export": [],
}


def environment(**more: str) -> dict[str, str]:
    """The environment without what would change colours or journals."""
    names = ("NO_COLOR", "FORCE_COLOR", "UNANIMITY_JOURNAL")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "PYTHONWARNINGS": "error", "TERM": "xterm", **more}


def run(*arguments: str, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command as people do, its output in pipes; `more` are variables."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        env=environment(**more),
    )


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start the command, its output in pipes."""
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


class _Streamed(Ledger):
    """A ledger that takes events too."""

    async def apply_event(self, event: Event) -> None:
        self.values[f"{event.stream_id}:{event.version}"] = event.data


async def _story(path: Path) -> None:
    left, right, bank = _Streamed("left"), Ledger("right"), Participant("bank")

    @bank.operation("charge")
    async def charge(request: object) -> None:
        raise RuntimeError("the bank is closed")

    stores = {"left": left, "right": right, "bank": bank}
    service = CoordinationService(stores, journal=path)
    await service.coordinate_transaction(request("good"))
    right.answer = PrepareResult("right", "ABORT", "no room")
    await service.coordinate_transaction(request("bad"))
    await service.wait_for("bad", timeout=10)
    right.answer = None
    left.commit_answer = CommitResult("left", "FAILED", "disk on fire")
    await service.coordinate_transaction(request("contrary"))
    await service.coordinate_transaction(_charge("parked"))
    while not await service.dead_letters():
        await asyncio.sleep(0.01)
    appended = await service.coordinate_transaction(_append("events", range(5)))
    assert appended.success, appended
    # Its store may have to be given the events still, and what has not ended is open.
    ended = await service.wait_for("events", timeout=60)
    assert ended.final_state is TransactionState.COMMITTED, ended
    # Decided, and not told to its store: it is open when its process is gone.
    left.commit_answer = RuntimeError("the network is away")
    late = asyncio.ensure_future(service.coordinate_transaction(request("orphan")))
    while left.asked("commit") < 3:
        await asyncio.sleep(0.01)
    await service.close(timeout=0.01)
    await asyncio.gather(late, return_exceptions=True)
    assert late.exception() is None or isinstance(late.exception(), ServiceClosed)


def _charge(name: str) -> CoordinationRequest:
    operation = {"store": "bank", "type": "charge", "max_retries": 0}
    kind = CoordinationType.EVENTUAL_CONSISTENCY
    return CoordinationRequest(name, kind, ["bank"], [operation], 30, "eventual", {})


def _append(name: str, numbers: Sequence[int]) -> CoordinationRequest:
    operations = [
        {
            "store": "left",
            "type": "Counted" if number % 2 else "Started",
            "stream": f"s{number % 2}",
            "data": {"number": number},
        }
        for number in numbers
    ]
    kind = CoordinationType.EVENT_SOURCING
    return CoordinationRequest(name, kind, ["left"], operations, 30, "eventual", {})


def write_story(path: Path) -> Path:
    """Make the journal, closed, and give it back."""
    asyncio.run(_story(path))
    return path
