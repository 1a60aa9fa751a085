"""Eventual consistency through participants: accepted at once, delivered in order, parked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unanimity import (
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    OperationRequest,
    Outcome,
    Participant,
    Permanent,
    TransactionState,
)

Make = Callable[..., CoordinationService]


class Index(Participant):
    """Remembers what it was told, in order; raises each of `raises` once before that."""

    def __init__(self) -> None:
        super().__init__("index")
        self.told: list[tuple[str, Any]] = []
        self.raises: list[BaseException] = []
        self.open = asyncio.Event()
        self.open.set()
        self.operation("put")(self.put)

    async def put(self, request: OperationRequest) -> None:
        await self.open.wait()
        if self.raises:
            raise self.raises.pop(0)
        self.told.append((request.operation["key"], request.operation["value"]))


def puts(coordination_id: str, *pairs: tuple[str, Any], level: str) -> CoordinationRequest:
    operations: list[dict[str, Any]] = [
        {"store": "index", "type": "put", "key": key, "value": value} for key, value in pairs
    ]
    kind = CoordinationType.EVENTUAL_CONSISTENCY
    return CoordinationRequest(coordination_id, kind, ["index"], operations, 30, level)


def test_eventual_is_told_once_accepted_and_session_once_delivered(make_service: Make) -> None:
    index = Index()

    async def scenario() -> None:
        async with make_service({"index": index}) as service:
            index.open.clear()
            accepted = await service.coordinate_transaction(puts("e1", ("a", 1), level="eventual"))
            assert (accepted.success, accepted.final_state) == (True, TransactionState.COMMITTING)
            assert index.told == []
            index.open.set()
            assert (await service.wait_for("e1", timeout=30)).final_state is (
                TransactionState.COMMITTED
            )
            done = await service.coordinate_transaction(puts("e2", ("b", 2), level="session"))
            assert done.final_state is TransactionState.COMMITTED

    asyncio.run(scenario())
    assert index.told == [("a", 1), ("b", 2)]


def test_one_key_is_told_in_order_whatever_has_to_be_tried_again(make_service: Make) -> None:
    index = Index()
    index.raises = [OSError("gone"), OSError("gone")]

    async def scenario() -> None:
        async with make_service({"index": index}) as service:
            for number in range(5):
                request = puts(f"e{number}", ("a", number), level="eventual")
                assert (await service.coordinate_transaction(request)).success
            assert (await service.wait_for("e4", timeout=30)).outcome is Outcome.COMMITTED

    asyncio.run(scenario())
    assert index.told == [("a", number) for number in range(5)]


def test_what_cannot_be_delivered_is_parked_and_holds_up_its_key_alone(make_service: Make) -> None:
    index = Index()
    index.raises = [Permanent("the index is closed")]

    async def scenario() -> None:
        async with make_service({"index": index}) as service:
            parked = await service.coordinate_transaction(puts("e1", ("a", 1), level="session"))
            assert parked.final_state is TransactionState.FAILED
            assert "the index is closed" in str(parked.error_message)
            other = await service.coordinate_transaction(puts("e2", ("b", 2), level="session"))
            assert other.final_state is TransactionState.COMMITTED
            behind = await service.coordinate_transaction(puts("e3", ("a", 3), level="eventual"))
            assert behind.final_state is TransactionState.COMMITTING
            (letter,) = await service.dead_letters()
            assert (letter.coordination_id, letter.store) == ("e1", "index")
            assert index.told == [("b", 2)]
            assert await service.redrive(letter.operation_id)
            await service.wait_for("e3", timeout=30)

    asyncio.run(scenario())
    assert index.told == [("b", 2), ("a", 1), ("a", 3)]


def test_the_example_keeps_a_cache_and_an_index_in_step(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "cache_and_index.py"
    command = [sys.executable, str(example), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-3:] == [
        "rows:  ['White tea', 'Black coffee']",
        "cache: ['White tea', 'Black coffee']",
        "index: {'black': ['b'], 'coffee': ['b'], 'tea': ['a'], 'white': ['a']}",
    ]
