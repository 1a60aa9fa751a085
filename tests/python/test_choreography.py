"""Choreographed sagas over real processes: the example's, killed where it hurts.

Each process has one store and a journal of its own; the bus is a file that they share. Not the
rules of the route (Rust). Invariant: whoever dies, the saga ends as if nobody had.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unanimity import (
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    InProcessEventBus,
    JournalEventBus,
    Outcome,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "order_choreography.py"
NAMES = ("payment", "stock", "parcel")


def example() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("order_choreography", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(name: str, folder: Path, armed: str = "") -> subprocess.Popen[str]:
    """Start one of the example's processes, and wait until it is ready."""
    environment = {**os.environ, "UNANIMITY_CRASH_AT": armed}
    if not armed:
        del environment["UNANIMITY_CRASH_AT"]
    command = [sys.executable, str(EXAMPLE), str(folder), name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def close(process: subprocess.Popen[str]) -> None:
    """Wait for its end, and let go of what it said."""
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@contextmanager
def hosts(folder: Path, armed: dict[str, str]) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The three processes, some of which die at a point; ended with the block."""
    processes = {name: start(name, folder, armed.get(name, "")) for name in NAMES}
    try:
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            close(process)


def lines(folder: Path, name: str) -> list[list[str]]:
    path = folder / f"{name}.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_example_tells_its_story(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    first, second, third = ran.stdout.splitlines()
    assert first == "order-1: committed"
    assert second.startswith("order-2: aborted") and "there are only 10" in second
    assert third == "order-3: committed, though a process was killed"
    assert lines(tmp_path, "payment").count(["undone", "order-2"]) == 1
    assert [name for word, name in lines(tmp_path, "parcel")] == ["order-1", "order-3"]


KILLS = [
    ("stock", "before_ask:execute:stock", 3),
    ("stock", "after_ask:execute:stock", 3),
    ("stock", "after_record:begin", 3),
    ("stock", "before_record:step_done", 3),
    ("stock", "after_record:step_done", 3),
    ("stock", "after_record:end", 3),
    ("parcel", "after_ask:execute:parcel", 3),
    ("parcel", "after_record:end", 3),
    ("stock", "after_record:step_failed", 11),
    ("stock", "after_record:end", 11),
    # The second time that the payment's store is asked is the undoing.
    ("payment", "before_ask:execute:payment#2", 11),
    ("payment", "after_ask:execute:payment#2", 11),
    ("payment", "after_record:end#2", 11),
]


@pytest.mark.parametrize(
    ("who", "point", "amount"), KILLS, ids=[f"{w} {p} {a}" for w, p, a in KILLS]
)
def test_a_saga_ends_though_the_host_of_a_step_is_killed_at(
    who: str, point: str, amount: int, tmp_path: Path
) -> None:
    request = example().order("order", amount)

    async def scenario() -> None:
        async with (
            JournalEventBus(tmp_path / "shared.db") as bus,
            CoordinationService({}, event_bus=bus, journal=tmp_path / "orders.db") as service,
        ):
            task = asyncio.create_task(service.coordinate_transaction(request))
            died = await asyncio.to_thread(processes[who].wait, 60)
            assert died == -signal.SIGKILL, "the point was not reached"
            close(processes[who])
            processes[who] = await asyncio.to_thread(start, who, tmp_path)
            result = await asyncio.wait_for(task, 60)
            wanted = Outcome.COMMITTED if amount <= 10 else Outcome.ABORTED
            assert result.outcome is wanted, result

    with hosts(tmp_path, {who: point}) as processes:
        asyncio.run(scenario())
    for name in NAMES:
        words = [word for word, _ in lines(tmp_path, name)]
        # Only the step in flight may have run twice: these participants have no barrier.
        bound = 2 if name == who else 1
        assert words.count("done") <= bound and words.count("undone") <= bound, (name, words)
        if amount <= 10:
            assert "done" in words and "undone" not in words
        elif name == "payment":
            assert "undone" in words
        else:
            assert words == []


def test_the_process_that_began_it_is_killed_and_hears_the_end_when_it_is_back(
    tmp_path: Path,
) -> None:
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(EXAMPLE.parent)!r})
from order_choreography import CoordinationService, JournalEventBus, Path, order
async def main():
    folder = Path({str(tmp_path)!r})
    async with (
        JournalEventBus(folder / "shared.db") as bus,
        CoordinationService({{}}, event_bus=bus, journal=folder / "orders.db") as service,
    ):
        await service.coordinate_transaction(order("order", 3))
asyncio.run(main())
"""

    async def hear() -> None:
        async with (
            JournalEventBus(tmp_path / "shared.db") as bus,
            CoordinationService({}, event_bus=bus, journal=tmp_path / "orders.db") as service,
        ):
            assert (await service.wait_for("order", timeout=60)).outcome is Outcome.COMMITTED
            record = await service.describe("order")
            assert record is not None
            assert [step.state for step in record.steps] == ["completed"] * 3
            assert record.steps[2].result == {"by": "parcel", "knowing": ["payment", "stock"]}

    environment = {**os.environ, "UNANIMITY_CRASH_AT": "after_record:begin"}
    command = [sys.executable, "-c", script]
    began = subprocess.run(command, env=environment, timeout=60, check=False)
    assert began.returncode == -signal.SIGKILL
    with hosts(tmp_path, {}):
        asyncio.run(hear())
    assert all(len(lines(tmp_path, name)) == 1 for name in NAMES)


def test_it_needs_a_durable_bus_and_says_so(tmp_path: Path) -> None:
    request = example().order("order", 3)

    async def scenario() -> None:
        for bus in (None, InProcessEventBus()):
            async with CoordinationService({}, event_bus=bus, journal="memory:") as service:
                result = await service.coordinate_transaction(request)
                assert result.outcome is Outcome.REFUSED
                assert result.code == "request.no_durable_bus"
                assert "JournalEventBus" in str(result.error_message)

    asyncio.run(scenario())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an event that nobody emits": ({"on": "NEVER"}, "'b' waits for 'NEVER'"),
    "an event that is no text": ({"on": 7}, "'on' of type int"),
    "an event of two": ({"emits": "A"}, "'a' and 'b' both emit 'A'"),
    "nothing to undo it with": ({"compensation": ...}, "'b' cannot be undone"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_route_that_cannot_be_is_refused_before_anything_runs(case: str, tmp_path: Path) -> None:
    changes, words = BAD[case]
    second = {"store": "y", "type": "t", "operation_id": "b", "compensation": None, **changes}
    second = {key: value for key, value in second.items() if value is not ...}
    first = {"store": "x", "type": "t", "operation_id": "a", "emits": "A", "compensation": None}
    kind = CoordinationType.SAGA_CHOREOGRAPHY
    request = CoordinationRequest("c", kind, ["x", "y"], [first, second], 30)

    async def scenario() -> None:
        async with (
            JournalEventBus(tmp_path / "shared.db") as bus,
            CoordinationService({}, event_bus=bus, journal=tmp_path / "j.db") as service,
        ):
            result = await service.coordinate_transaction(request)
            assert result.outcome is Outcome.REFUSED
            assert words in str(result.error_message), result.error_message
            assert await service.describe("c") is None

    asyncio.run(scenario())
