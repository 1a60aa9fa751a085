"""A node of a cluster with a lock manager on it, in a process of its own.

Not a test: `test_raft_locks` starts it. It is told what to do as `raft_node` is. Times that it
tells are of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

from raft_node import Told, die_with_parent, listen_to
from unanimity import LockType, RaftConsensusService, RaftLockManager


class ToldLocks(Told):
    """A node that also locks."""

    def __init__(self, raft: RaftConsensusService) -> None:
        super().__init__(raft)
        self._manager = RaftLockManager(raft)
        self._heard: list[tuple[str, str, float]] = []
        self.verbs |= {
            "locks": self._begin,
            "acquire": self._acquire,
            "release": self._manager.release_lock,
            "holders": self._holders,
            "heard": self._hears,
        }

    async def _begin(self) -> None:
        def noting(what: str) -> Any:
            return lambda lock_id, *_: self._heard.append((what, lock_id, time.monotonic()))

        await self._manager.start()
        self._manager.on_lost(noting("lost"))
        self._manager.on_suspended(noting("suspended"))
        self._manager.on_resumed(noting("resumed"))

    async def _acquire(self, resource: str, requester: str, seconds: float) -> dict[str, Any]:
        result = await self._manager.acquire_lock(
            resource, LockType.EXCLUSIVE, requester, timeout_seconds=seconds
        )
        return {
            "acquired": result.acquired,
            "lock_id": result.lock_id,
            "token": result.fencing_token,
            "error": result.error_message,
            "cycle": result.deadlock_cycle,
            "at": time.monotonic(),
        }

    async def _holders(self, resource: str) -> list[tuple[str, str]]:
        infos = await self._manager.check_lock_status(resource)
        return [(info.requester_id, info.state) for info in infos]

    async def _hears(self, what: str, lock_id: str) -> float:
        """Wait until a lock was told of so; when that was."""
        while True:
            for heard, of, at in self._heard:
                if (heard, of) == (what, lock_id):
                    return at
            await asyncio.sleep(0.005)


if __name__ == "__main__":
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    options = json.loads(sys.argv[1])
    asyncio.run(listen_to(lambda: ToldLocks(RaftConsensusService(**options))))
