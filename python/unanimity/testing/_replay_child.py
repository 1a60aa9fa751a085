"""A process of `replay`: it makes the service and runs the scenario, or recovers and checks.

`python -m unanimity.testing._replay_child scenario|check`, one JSON object on its input. Not
started by hand. Invariant: the check begins when everything that the crash left open has ended.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from typing import Any

from .._service import CoordinationService
from .._types import CoordinationType
from ..stores import NativeStore
from ._child import load
from ._faults import allow_killing

_RECORDS = ("before_record", "before_sync", "after_record")
_ASKS = ("before_ask", "after_ask")
_STORE = ("store_prepare", "store_staged", "store_commit", "store_committed")
_END_SECONDS = 60.0
_BY_STEPS = (CoordinationType.SAGA_ORCHESTRATION, CoordinationType.EVENTUAL_CONSISTENCY)


async def act(order: dict[str, Any], kind: str) -> list[str]:
    """Do what the order says; the points that the scenario can pass."""
    service = load(order["make"])(order["folder"])
    if inspect.isawaitable(service):
        service = await service
    if not isinstance(service, CoordinationService):
        raise TypeError(f"{order['make']} gives {service!r}, which is no CoordinationService")
    async with service:
        if kind == "check":
            await everything_ends(service)
        done = load(order["act"])(service)
        if inspect.isawaitable(done):
            await done
        return await points_of(service) if kind == "scenario" else []


async def everything_ends(service: CoordinationService) -> None:
    """Wait for what was left open."""
    await service.recover()
    for coordination_id in await service.list_active_coordinations():
        await service.wait_for(coordination_id, _END_SECONDS)


async def points_of(service: CoordinationService) -> list[str]:
    """What the engine and the stores of Rust pass in coordinations like those in the history."""
    points: dict[str, None] = {}
    for record in await service.history(limit=1000):
        found = await service.describe(record.coordination_id)
        if found is None:
            continue
        is_by_steps = found.coordination_type in _BY_STEPS
        is_undone = str(found.decision).lower() == "abort"
        kinds = ["begin", "decision", "end"]
        if is_by_steps:
            kinds[1:1] = ["step_started", "step_done", *(["step_failed"] if is_undone else [])]
        points.update({f"{when}:{kind}": None for kind in kinds for when in _RECORDS})
        if is_by_steps:
            for operation in found.operations:
                for work in ("execute", "compensate") if is_undone else ("execute",):
                    name = f"{work}:{operation['operation_id']}"
                    points.update({f"{when}:{name}": None for when in _ASKS})
            continue
        for store in found.participating_stores:
            phases = ("prepare", "abort" if is_undone else "commit")
            names = [f"{when}:{phase}:{store}" for phase in phases for when in _ASKS]
            if isinstance(service.stores.get(store), NativeStore):
                names += [f"{step}:{store}" for step in _STORE]
            points.update(dict.fromkeys(names))
    return list(points)


def main() -> None:
    """Read the order, act, and tell the points in the last line."""
    order = json.loads(sys.stdin.read())
    for place in reversed(order["path"]):
        if place not in sys.path:
            sys.path.insert(0, place)
    allow_killing()
    points = asyncio.run(act(order, sys.argv[1]))
    print(json.dumps(points), flush=True)


if __name__ == "__main__":
    main()
