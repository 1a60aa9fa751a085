"""An order goes through three processes, none of which knows the others: each has one store.

    python examples/order_choreography.py [WORK]

WORK gets what each process did, its journal, and the bus that they share (default: ./orders). The
payment, the stock and the parcel are three processes; this one begins the orders. The first order
succeeds. The second asks for more than is in stock, so its payment is given back. While the third
is under way, the process with the stock is killed and started again: it ends all the same.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from unanimity import (
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    JournalEventBus,
    OperationRequest,
    Participant,
    Permanent,
)

ROUTE = (("payment", "charge"), ("stock", "reserve"), ("parcel", "send"))


def participant(name: str, log: Path) -> Participant:
    """A store of one kind of work; what it does it writes down."""
    part = Participant(name)
    work = dict(ROUTE)[name]

    def note(word: str, request: OperationRequest) -> None:
        with log.open("a") as lines:
            lines.write(json.dumps([word, request.transaction_id]) + "\n")

    @part.operation(work)
    async def do(request: OperationRequest) -> dict[str, Any]:
        if request.operation["amount"] > 10 and name == "stock":
            raise Permanent("there are only 10")
        await asyncio.sleep(request.operation.get("takes", 0))
        note("done", request)
        return {"by": name, "knowing": sorted(request.context)}

    @do.compensation
    async def undo(request: OperationRequest) -> None:
        note("undone", request)

    return part


async def host(name: str, folder: Path) -> None:
    """One of the three processes: it takes what comes for its store, until it is ended."""
    stores = {name: participant(name, folder / f"{name}.log")}
    async with (
        JournalEventBus(folder / "shared.db") as bus,
        CoordinationService(stores, event_bus=bus, journal=folder / f"{name}.db"),
    ):
        print("ready", flush=True)
        await asyncio.Event().wait()


def start(name: str, folder: Path) -> subprocess.Popen[str]:
    """Start such a process, and wait until it is ready."""
    command = [sys.executable, __file__, str(folder), name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def order(number: str, amount: int, takes: float = 0) -> CoordinationRequest:
    """Pay, reserve, send: each triggered by the event of the one before."""
    operations = [
        {
            "store": store,
            "type": work,
            "operation_id": store,
            "emits": f"{store.upper()}_DONE",
            "amount": amount,
            "takes": takes if store == "stock" else 0,
            # Whoever has the store knows how to undo it.
            "compensation": True,
        }
        for store, work in ROUTE
    ]
    for before, operation in pairwise(operations):
        operation["on"] = before["emits"]
    kind = CoordinationType.SAGA_CHOREOGRAPHY
    return CoordinationRequest(number, kind, [store for store, _ in ROUTE], operations, 60)


async def begin(folder: Path) -> None:
    """Begin three orders, and kill a process in the middle of the last."""
    processes = {name: start(name, folder) for name, _ in ROUTE}
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(event: dict[str, Any]) -> None:
        heard.put_nowait(event["coordination_id"])

    async with (
        JournalEventBus(folder / "shared.db") as bus,
        CoordinationService({}, event_bus=bus, journal=folder / "orders.db") as service,
    ):
        try:
            for number, amount in (("order-1", 3), ("order-2", 11)):
                result = await service.coordinate_transaction(order(number, amount))
                print(f"{number}: {result.outcome.value} {result.error_message or ''}".rstrip())
            await bus.subscribe("PAYMENT_DONE", hear)
            task = asyncio.create_task(service.coordinate_transaction(order("order-3", 1, 0.5)))
            # It is paid, so the process with the stock has it, or will.
            while await heard.get() != "order-3":
                pass
            processes["stock"].send_signal(signal.SIGKILL)
            processes["stock"].wait()
            processes["stock"] = start("stock", folder)
            print(f"order-3: {(await task).outcome.value}, though a process was killed")
        finally:
            for process in processes.values():
                process.kill()
                process.wait()


def main() -> None:
    """Run the story, or one of its processes."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "orders")
    folder.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 2:
        asyncio.run(host(sys.argv[2], folder))
    else:
        asyncio.run(begin(folder))


if __name__ == "__main__":
    main()
