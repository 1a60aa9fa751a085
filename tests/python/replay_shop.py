"""A small shop for the tests of `replay`: two stores, an order, a trip, and what must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from broken_stores import HonestStore
from unanimity import (
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    PrepareRequest,
    PrepareResult,
)
from unanimity.stores import FileStore


class InMemoryStage(HonestStore):
    """Votes COMMIT with nothing on its disk, and takes every commit for done."""

    def _save(self) -> None:
        Path(self._path).write_text(json.dumps({**self._state(), "staged": {}}))

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        return super().prepare_transaction(request)

    def commit_transaction(self, transaction_id: str):  # type: ignore[no-untyped-def]
        answer = super().commit_transaction(transaction_id)
        answer.status = "SUCCESS"
        return answer


def _service(folder: str, bank: HonestStore) -> CoordinationService:
    stores = {"files": FileStore(f"{folder}/files"), "bank": bank}
    return CoordinationService(stores, journal=f"{folder}/journal.db")


def make_service(folder: str) -> CoordinationService:
    return _service(folder, HonestStore(f"{folder}/bank.json", "bank"))


def make_forgetful(folder: str) -> CoordinationService:
    return _service(folder, InMemoryStage(f"{folder}/bank.json", "bank"))


def make_nothing(folder: str) -> str:
    return folder


OPERATIONS = [
    {"store": name, "type": "put", "key": "o1", "value": "1"} for name in ("files", "bank")
]


async def order(service: CoordinationService) -> None:
    kind = CoordinationType.TWO_PHASE_COMMIT
    request = CoordinationRequest("o1", kind, ["files", "bank"], OPERATIONS, 30, "session")
    (await service.coordinate_transaction(request)).raise_for_state()


async def fail(service: CoordinationService) -> None:
    raise RuntimeError("the scenario is wrong")


async def check(service: CoordinationService) -> None:
    files, bank = service.stores["files"], service.stores["bank"]
    kept = await files.get_text("o1")
    assert bank.get("o1") == kept, f"torn: the bank has {bank.get('o1')}, the files {kept}"
    assert await service.list_active_coordinations() == []


STEPS: list[dict[str, Any]] = [
    {
        "store": "bank",
        "type": "put",
        "key": name,
        "value": "1",
        "operation_id": name,
        "compensation": {"type": "delete", "key": name},
    }
    for name in ("seat", "room")
]
BAD = {**STEPS[0], "type": "jump", "operation_id": "bad"}


async def trip(service: CoordinationService) -> None:
    """A saga that is undone behind its second step."""
    saga = CoordinationType.SAGA_ORCHESTRATION
    operations: list[dict[str, Any]]
    operations = [STEPS[0], {**STEPS[1], "depends_on": ["seat"]}, {**BAD, "depends_on": ["room"]}]
    request = CoordinationRequest("trip", saga, ["bank"], operations, 30, "session")
    assert not (await service.coordinate_transaction(request)).success


async def check_trip(service: CoordinationService) -> None:
    bank = service.stores["bank"]
    assert bank.values == {}, bank.values
