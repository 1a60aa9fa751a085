"""The engine's log in `logging`: what every record has, silence by default, what is dropped."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger, request
from unanimity import CommitResult, CoordinationRequest, CoordinationService
from unanimity.stores import MemoryStore

Make = Callable[..., CoordinationService]
FORMAT = "%(levelname)s %(coordination_id)s %(store)s %(code)s %(message)s"


def test_every_record_says_which_coordination_store_and_code_it_is_about(
    make_service: Make, caplog: pytest.LogCaptureFixture
) -> None:
    right = Ledger("right")
    right.commit_answer = CommitResult("right", "FAILED", "disk on fire")

    async def scenario() -> None:
        async with make_service({"left": Ledger("left"), "right": right}) as service:
            await service.coordinate_transaction(request("t1"))
            while not any(record.levelno == logging.ERROR for record in caplog.records):
                await asyncio.sleep(0.005)

    with caplog.at_level(logging.INFO, logger="unanimity.engine"):
        asyncio.run(scenario())
    formatter = logging.Formatter(FORMAT)
    told = [record for record in caplog.records if record.name == "unanimity.engine"]
    lines = [formatter.format(record) for record in told]
    (parked,) = [line for line in lines if line.startswith("ERROR")]
    head = "ERROR t1 None transaction.heuristic manual intervention required"
    assert parked.startswith(head) and "disk on fire" in parked
    for record in told:
        assert {"coordination_id", "store", "code"} <= vars(record).keys()


PROGRAM = """
import asyncio
from unanimity import CommitResult, CoordinationRequest, CoordinationService, CoordinationType
from ledger import Ledger, request
async def main():
    right = Ledger("right")
    right.commit_answer = CommitResult("right", "FAILED", "disk on fire")
    service = CoordinationService({"left": Ledger("left"), "right": right}, journal="memory:")
    async with service:
        print((await service.coordinate_transaction(request("t1"))).outcome.value)
asyncio.run(main())
"""


def test_it_is_silent_until_its_user_says_where_to(tmp_path: Path) -> None:
    source = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "heuristic\n", "")


class Raises:
    """A bus that makes the engine log one record for each event."""

    def publish_event(self, event: dict[str, Any]) -> None:
        raise LookupError("a bus of the user's")


def put(number: int) -> CoordinationRequest:
    operation = {"store": "left", "type": "put", "key": str(number), "value": 1}
    return request(f"t{number}", "left", operations=[operation])


def test_what_the_loop_does_not_come_to_is_dropped_and_counted(
    make_service: Make, caplog: pytest.LogCaptureFixture
) -> None:
    count = 4_600
    many = {"performance": {"max_concurrent_coordinations": 2 * count}}

    async def scenario() -> None:
        service = make_service(
            {"left": MemoryStore()},
            journal="memory:",
            event_bus=Raises(),
            config=many,
        )
        async with service:
            # All are asked for in one turn of the loop, and it hears of all starts in the next.
            asked = [service.coordinate_transaction(put(number)) for number in range(count)]
            assert all(result.success for result in await asyncio.gather(*asked))

    asyncio.run(scenario())
    told = [record for record in caplog.records if record.name == "unanimity.engine"]
    dropped = [vars(record).get("unanimity_dropped", 0) for record in told]
    assert any(dropped)
    # Two events each; what is missing is what was counted.
    assert len(told) - sum(map(bool, dropped)) + sum(dropped) >= 2 * count
