"""Processes that append and project are killed at named points; the next brings all of it home.

Not the journal's own kill tests (in Rust). The store writes down each event that it applies, on a
file that outlives its process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unanimity import CoordinationService, Event, IStorageStore

APPENDS = 12

CHILD = f"""
import asyncio, sys
from pathlib import Path
from unanimity import CoordinationRequest, CoordinationService, CoordinationType
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_event_sourcing_kills import Notes

async def main(folder):
    notes = Notes(folder / "applied")
    async with CoordinationService({{"notes": notes}}, journal=folder / "journal.db") as service:
        with (folder / "told").open("a") as told:
            for number in range({APPENDS}):
                noted = {{"store": "notes", "type": "noted"}}
                operations = [
                    noted | {{"stream": "s", "expected_version": number}},
                    noted | {{"stream": f"own-{{number}}"}},
                ]
                request = CoordinationRequest(
                    f"c{{number}}", CoordinationType.EVENT_SOURCING, ["notes"], operations
                )
                result = await service.coordinate_transaction(request)
                assert result.success, result
                told.write(f"c{{number}}\\n")
                told.flush()

asyncio.run(main(Path(sys.argv[1])))
"""


class Notes(IStorageStore):
    """Writes down what it is handed."""

    def __init__(self, path: Path) -> None:
        self.store_name = "notes"
        self.path = path

    async def apply_event(self, event: Event) -> None:
        with self.path.open("a") as file:
            file.write(f"{event.global_position} {event.stream_id} {event.version}\n")

    def positions(self) -> list[int]:
        text = self.path.read_text() if self.path.exists() else ""
        return [int(line.split()[0]) for line in text.splitlines()]


@pytest.mark.parametrize(
    "point",
    [
        "before_record:begin#3",
        "before_sync:begin#3",
        "after_record:begin#3",
        "before_apply:notes",
        "before_apply:notes#6",
        "after_apply:notes",
        "after_apply:notes#7",
        "projection_written:notes",
        "projection_written:notes#4",
        "after_record:end",
        "tables:written",
    ],
)
def test_after_a_kill_every_event_is_applied_in_order_and_nothing_told_is_lost(
    tmp_path: Path, point: str
) -> None:
    environment = os.environ | {"UNANIMITY_CRASH_AT": point}
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, (point, done.stderr.decode())
    notes = Notes(tmp_path / "applied")
    before = notes.positions()

    async def heir() -> list[Event]:
        journal = tmp_path / "journal.db"
        async with CoordinationService({"notes": notes}, journal=journal) as service:
            events: list[Event] = []
            while page := await service.read_stream("s", len(events) + 1, limit=5):
                events += page
            for event in events:
                ended = await service.wait_for(f"c{event.version - 1}", timeout=30)
                assert ended.success, (point, ended)
            return events

    events = asyncio.run(heir())
    assert [event.version for event in events] == list(range(1, len(events) + 1))
    told_file = tmp_path / "told"
    told = told_file.read_text().split() if told_file.exists() else []
    assert len(events) in (len(told), len(told) + 1), (point, told)
    applied = notes.positions()
    every = list(range(1, 2 * len(events) + 1))
    assert sorted(set(applied)) == every, point
    # What came before the kill, and what came after it, are each in order and without a gap.
    assert before == every[: len(before)], point
    after = applied[len(before) :]
    assert after == list(range(after[0], after[0] + len(after))) if after else True, point
