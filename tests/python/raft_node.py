"""A node of a cluster in a process of its own, told what to do by lines of JSON on its input.

Not a test: `raft_cluster` starts it. A line is {"n": number, "do": verb, ...}; the answer is a line
with the same number and "answer", or with "error", "code" and "message". It ends with its input,
and is killed when the process that started it dies, even if it is stopped then.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import json
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from unanimity import RaftConsensusService

_DIE_WITH_PARENT = 1
_LINE_BYTES_MAX = 1 << 24


def die_with_parent() -> None:
    """Have this process killed when the one that started it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


class Told:
    """Does what a line says."""

    def __init__(self, raft: RaftConsensusService) -> None:
        self._raft = raft
        self.verbs: dict[str, Callable[..., Awaitable[Any]]] = {
            "start": raft.start,
            "propose": raft.propose_coordination_decision,
            "read": raft.get_consensus_status,
            "add": raft.add_node,
            "remove": raft.remove_node,
            "transfer": raft.transfer_leadership,
            "status": raft.status,
            "properties": self._properties,
            "flood": self._flood,
            "close": raft.close,
        }

    async def _properties(self) -> dict[str, Any]:
        names = ("current_term", "voted_for", "commit_index", "last_applied", "state", "leader_id")
        found = {name: getattr(self._raft, name) for name in names}
        entries = [dataclasses.asdict(entry) for entry in self._raft.log_entries]
        return {**found, "log_entries": entries}

    async def _flood(self, prefix: str, count: int, callers: int) -> int:
        """Propose `count` decisions, each caller one after the other; how often one was refused.

        One whose answer did not come is proposed again.
        """
        names = iter([f"{prefix}-{number}" for number in range(count)])

        async def caller() -> int:
            refused = 0
            for name in names:
                while not await self._raft.propose_coordination_decision(name, "COMMIT", {}):
                    refused += 1
            return refused

        return sum(await asyncio.gather(*(caller() for _ in range(callers))))

    async def obey(self, line: bytes) -> None:
        told = json.loads(line)
        number, verb = told["n"], told["do"]
        try:
            answer: dict[str, Any] = {"answer": await self.verbs[verb](*told["arguments"])}
        except Exception as error:
            code = getattr(error, "code", None)
            answer = {"error": type(error).__name__, "code": code, "message": str(error)}
        sys.stdout.write(json.dumps({"n": number, **answer}, default=str) + "\n")
        sys.stdout.flush()


async def listen_to(make: Callable[[], Told]) -> None:
    """Obey line after line; what obeys is made on the loop."""
    told = make()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.ensure_future(told.obey(line))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    given = json.loads(sys.argv[1])
    asyncio.run(listen_to(lambda: Told(RaftConsensusService(**given))))
