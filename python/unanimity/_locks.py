"""What a lock manager is: the interface and its plain data.

Not a lock manager: ours are in `_lock_managers`, and a service accepts any object with these
methods. Invariant: names and signatures are the public contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime

from ._types import LockType


@dataclass
class LockAcquisitionResult:
    """Whether a lock was granted, and if not, why."""

    acquired: bool
    lock_id: str | None = None
    acquired_at: datetime | None = None
    error_message: str | None = None
    fencing_token: int | None = None
    deadlock_cycle: list[str] | None = None

    @classmethod
    def success(
        cls, lock_id: str, acquired_at: datetime, fencing_token: int | None = None
    ) -> LockAcquisitionResult:
        """Make the answer of a grant."""
        return cls(True, lock_id, acquired_at, None, fencing_token)

    @classmethod
    def failed(
        cls, error_message: str, deadlock_cycle: list[str] | None = None
    ) -> LockAcquisitionResult:
        """Make the answer of a refusal."""
        return cls(False, error_message=error_message, deadlock_cycle=deadlock_cycle)


@dataclass
class LockInfo:
    """One holder of a resource, or one who waits for it."""

    resource_id: str
    lock_type: LockType
    requester_id: str
    state: str
    lock_id: str | None
    position: int
    since: datetime
    expires_at: datetime | None
    fencing_token: int | None


@dataclass
class ActiveLock:
    """A lock that is held."""

    lock_id: str
    resource_id: str
    lock_type: LockType
    requester_id: str
    acquired_at: datetime
    fencing_token: int | None = None
    zk_path: str | None = None


@dataclass
class Deadlock:
    """A circle of waits that was found: each waits for the next, the last for the first."""

    victim_transaction: str
    deadlock_cycle: list[str]
    resource_id: str
    detected_at: datetime


class IDistributedLockManager(ABC):
    """Grants locks on named resources, first come, first served."""

    @abstractmethod
    async def acquire_lock(
        self,
        resource_id: str,
        lock_type: LockType,
        requester_id: str,
        timeout_seconds: int = 300,
    ) -> LockAcquisitionResult:
        """Wait for a lock until it is granted, refused, or the time is up."""

    @abstractmethod
    async def release_lock(self, lock_id: str, requester_id: str) -> bool:
        """Let go of a lock; False where the requester does not hold it."""

    @abstractmethod
    async def check_lock_status(self, resource_id: str) -> list[LockInfo]:
        """List the holders, then those who wait in their order."""
