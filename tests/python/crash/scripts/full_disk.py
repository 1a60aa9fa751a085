"""Works while the journal can grow no more, then with room again: `full_disk.py FOLDER`.

The limit is that of the process (RLIMIT_FSIZE), which a write meets as it meets a full disk: with
an error. Both stores keep everything in memory, so only the journal is hit. Prints what was found.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from unanimity import CoordinationRequest, CoordinationService, CoordinationType, Outcome
from unanimity.stores import MemoryStore

# Without a handler the system would end the process instead of failing the write.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def request(name: str) -> CoordinationRequest:
    """Put one value into both stores."""
    put = {"type": "put", "key": name, "value": "x" * 500}
    operations = [{"store": store, **put} for store in ("one", "two")]
    return CoordinationRequest(
        name, CoordinationType.TWO_PHASE_COMMIT, ["one", "two"], operations, 2, "session"
    )


async def work(folder: Path) -> dict[str, Any]:
    """Fill, fail, make room, go on."""
    one, two = MemoryStore("one"), MemoryStore("two")
    found: dict[str, Any] = {"torn": [], "refused": 0, "unknown": 0, "messages": []}
    service = CoordinationService({"one": one, "two": two}, journal=folder / "journal.db")
    await service.start()
    results = [await service.coordinate_transaction(request(f"good-{n}")) for n in range(20)]
    found["good_before"] = sum(result.success for result in results)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    names = [f"full-{number}" for number in range(60)]
    results = await asyncio.gather(*(service.coordinate_transaction(request(n)) for n in names))
    for result in results:
        if result.outcome is Outcome.REFUSED:
            found["refused"] += 1
            found["messages"].append(result.error_message)
        if result.outcome is Outcome.UNKNOWN:
            found["unknown"] += 1
            found["messages"].append(result.error_message)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    found["outcomes"] = sorted({result.outcome.value for result in results})
    unsettled = []
    for result in results:
        if result.outcome is not Outcome.REFUSED:
            try:
                result = await service.wait_for(result.coordination_id, timeout=20)
            except Exception as error:
                unsettled.append(f"{result.coordination_id}: {error!r}")
                continue
        shown = [await store.get(result.coordination_id) is not None for store in (one, two)]
        if shown != [result.success, result.success]:
            found["torn"].append([result.coordination_id, result.outcome.value, shown])
    found["unsettled"] = unsettled
    found["works_again"] = (await service.coordinate_transaction(request("again"))).success
    await service.close()
    return found


print(json.dumps(asyncio.run(work(Path(sys.argv[1])))))
