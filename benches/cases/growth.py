"""Growth: how one service's rate and memory go with one quantity, all others held.

Run by `benches/growth.py`, one process for each point; `count` is the quantity. Two native
MemoryStores and a SQLite journal with fsync, where the axis does not say otherwise.
Invariant: a run that loses a coordination fails.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

from measure import Case, Row, main, run_callers
from plain_stores import coordination_id

from unanimity import CoordinationRequest, CoordinationService, CoordinationType
from unanimity.stores import MemoryStore

_KEYS = 1_000


def _names(count: int) -> list[str]:
    return [f"store-{number:02d}" for number in range(count)]


def _request(number: int, names: list[str], operations: int, value: object) -> CoordinationRequest:
    """Spread some operations over the stores, each with a key of its own."""
    return CoordinationRequest(
        coordination_id(number),
        CoordinationType.TWO_PHASE_COMMIT,
        names,
        [
            {
                "store": names[index % len(names)],
                "type": "put",
                "key": f"key-{(number * operations + index) % _KEYS}-{index}",
                "value": value,
            }
            for index in range(operations)
        ],
        60,
        "session",
        {},
    )


@asynccontextmanager
async def _service(case: Case, stores: int) -> Any:
    config = {"performance": {"max_concurrent_coordinations": max(100, case.callers)}}
    names = _names(stores)
    service = CoordinationService(
        {name: MemoryStore(name) for name in names},
        journal=case.folder / "journal.db",
        config=config,
    )
    async with service:
        yield service


async def _measured(case: Case, stores: int, operations: int, value: object) -> Row:
    names = _names(stores)
    async with _service(case, stores) as service:

        async def put(number: int) -> None:
            result = await service.coordinate_transaction(
                _request(number, names, operations, value)
            )
            result.raise_for_state()

        row = await run_callers(case, put)
        return {**row, "memory_mib": _memory_mib()}


def _memory_mib() -> float:
    """The most that the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def concurrent(case: Case) -> Row:
    """That many callers."""
    return await _measured(case, 2, 2, 1)


async def participants(case: Case) -> Row:
    """That many stores in each coordination, one operation each."""
    return await _measured(case, case.count, case.count, 1)


async def operations(case: Case) -> Row:
    """That many operations in each coordination, over two stores."""
    return await _measured(case, min(2, case.count), case.count, 1)


async def value_bytes(case: Case) -> Row:
    """Values of that many bytes, one for each of two stores."""
    return await _measured(case, 2, 2, "x" * case.count)


async def finished(case: Case) -> Row:
    """That many finished coordinations in the journal before it is measured."""
    names = _names(2)
    async with _service(case, 2) as service:
        numbers: Iterator[int] = iter(range(10_000_000, 10_000_000 + case.count))

        async def fill() -> None:
            for number in numbers:
                (
                    await service.coordinate_transaction(_request(number, names, 2, 1))
                ).raise_for_state()

        await asyncio.gather(*(fill() for _ in range(64)))
        # It answers when the tables have caught up with the log: what is measured is the next
        # one's cost, and not what is left of the filling.
        await service.history(limit=1)

        async def put(number: int) -> None:
            (await service.coordinate_transaction(_request(number, names, 2, 1))).raise_for_state()

        row = await run_callers(case, put)
        return {**row, "memory_mib": _memory_mib()}


if __name__ == "__main__":
    main(
        {
            "concurrent coordinations": concurrent,
            "participants": participants,
            "operations": operations,
            "bytes of a value": value_bytes,
            "finished coordinations": finished,
        }
    )
