"""Locks in a cluster: the lock table is part of the state that its nodes share.

Its arguments only; what it does is in the engine, and its methods are in `_native_locks`.
Invariant: the node is started before anything is asked of it.
"""

from __future__ import annotations

from . import _engine
from ._exceptions import ConfigError
from ._native_locks import NativeLockManager
from ._raft import RaftConsensusService

__all__ = ["RaftLockManager"]


class RaftLockManager(NativeLockManager):
    """Locks that the nodes of a cluster keep together: no other server is needed.

    `raft` is this process's node, which `start()` starts too. A process that no majority hears for
    as long as its session lasts (three election timeouts, 5 s at least) holds nothing any more, and
    is told so by its own clock before anybody else gets the lock. A deadlock over all processes is
    found by the wait that would close the circle. Fencing tokens grow with the cluster's log.
    """

    def __init__(
        self,
        raft: RaftConsensusService,
        *,
        max_wait_time_seconds: float | None = None,
        lease_seconds: float | None = None,
    ) -> None:
        """Check the arguments; nothing is opened before the first use."""
        super().__init__(max_wait_time_seconds=max_wait_time_seconds, lease_seconds=lease_seconds)
        if not isinstance(raft, RaftConsensusService):
            raise ConfigError(f"raft is {raft!r}; give the RaftConsensusService of this process")
        self.raft = raft

    async def start(self) -> None:
        """Start the node, if it does not run, and find out whether a majority answers."""
        await self.raft.start()
        await super().start()

    def _open(self) -> _engine.LockManager:
        if not self.detects_deadlocks:
            raise ConfigError(
                "detects_deadlocks is False, and the locks of a cluster always look for deadlocks; "
                "leave it True"
            )
        return _engine.LockManager.raft(self.raft.for_service(), self._wait_max, self._lease)
