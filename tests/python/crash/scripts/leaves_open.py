"""Ends in the middle of its work: `leaves_open.py FOLDER "closed loop"|exit|os._exit|"signal N"`.

Prints the ids that it began. Invariant: nothing is closed, so that the next process has to do it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from unanimity import CoordinationRequest, CoordinationService, CoordinationType
from unanimity.stores import FileStore

NAMES = [f"t{number}" for number in range(40)]


def request(name: str) -> CoordinationRequest:
    """Put one file into both folders."""
    put = {"type": "put", "key": name, "value": name}
    operations = [{"store": store, **put} for store in ("files", "other")]
    kind = CoordinationType.TWO_PHASE_COMMIT
    return CoordinationRequest(name, kind, ["files", "other"], operations)


async def begin(folder: Path, ending: str) -> None:
    """Begin many, wait for the first, and stop caring."""
    stores = {"files": FileStore(folder / "files"), "other": FileStore(folder / "other")}
    service = CoordinationService(stores, journal=folder / "journal.db")
    await service.start()
    tasks = [asyncio.create_task(service.coordinate_transaction(request(n))) for n in NAMES]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    # What was not begun in the journal would not be found there.
    began = [row.coordination_id for row in await service.history(limit=1000)]
    sys.stdout.write(json.dumps(began))
    sys.stdout.flush()
    if ending.startswith("signal "):
        os.kill(os.getpid(), int(ending.partition(" ")[2]))
        await asyncio.sleep(60)
    if ending == "os._exit":
        os._exit(0)
    if ending == "exit":
        sys.exit(0)


folder, ending = sys.argv[1:]
asyncio.run(begin(Path(folder), ending))
