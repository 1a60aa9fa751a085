"""The lock managers to be had: in this process, in PostgreSQL, in ZooKeeper.

Their arguments only; what they do is in the engine, and their methods are in `_native_locks`.
Invariant: an argument that cannot be used is a ConfigError that names it; a password is in no
message.
"""

from __future__ import annotations

from . import _engine
from ._exceptions import ConfigError
from ._native_locks import NativeLockManager, positive

__all__ = ["LocalLockManager", "PostgresLockManager", "ZooKeeperLockManager"]


class LocalLockManager(NativeLockManager):
    """Locks among the tasks of one process: the fastest, and nothing survives the process.

    Deadlocks are found at once, by the wait that would close the circle.
    """

    def _open(self) -> _engine.LockManager:
        return _engine.LockManager.local(self._wait_max, self._lease, self.detects_deadlocks)


class PostgresLockManager(NativeLockManager):
    """Locks in a PostgreSQL database: seen by every process that uses it.

    `dsn` is a URL or a list of key=value. Who is silent for `session_timeout_ms` holds nothing any
    more. A deadlock is looked for when a wait begins, and every `detection_interval_seconds` while
    somebody waits. The tables are made when they are missing.
    """

    def __init__(
        self,
        dsn: str,
        *,
        session_timeout_ms: float = 10_000,
        detection_interval_seconds: float = 1.0,
        max_wait_time_seconds: float | None = None,
        lease_seconds: float | None = None,
        connections: int = 2,
    ) -> None:
        """Check the arguments; nothing is opened before the first use."""
        super().__init__(max_wait_time_seconds=max_wait_time_seconds, lease_seconds=lease_seconds)
        self._dsn = _text(dsn, "dsn")
        self._times = _times(session_timeout_ms, detection_interval_seconds)
        if isinstance(connections, bool) or not isinstance(connections, int) or connections < 1:
            raise ConfigError(f"connections is {connections!r}; give a whole number from 1")
        self._connections = connections

    def _open(self) -> _engine.LockManager:
        return _engine.LockManager.postgres(
            self._dsn, self._timing(), self._connections, self._wait_max, self._lease
        )


class ZooKeeperLockManager(NativeLockManager):
    """Locks in ZooKeeper: seen by every process that uses it, gone with the session.

    `zk_connection_string` is "host:port,host:port/chroot". With `credentials`, user and password of
    the digest scheme, the nodes belong to that user alone. A deadlock is looked for when a wait
    begins, and every `detection_interval_seconds` while somebody waits.
    """

    def __init__(
        self,
        zk_connection_string: str,
        lock_root_path: str = "/memory_os/locks",
        session_timeout_ms: float = 30_000,
        *,
        credentials: tuple[str, str] | None = None,
        detection_interval_seconds: float = 1.0,
        max_wait_time_seconds: float | None = None,
        lease_seconds: float | None = None,
    ) -> None:
        """Check the arguments; nothing is opened before the first use."""
        super().__init__(max_wait_time_seconds=max_wait_time_seconds, lease_seconds=lease_seconds)
        self.zk_connection_string = _text(zk_connection_string, "zk_connection_string")
        self.lock_root_path = _text(lock_root_path, "lock_root_path")
        self._times = _times(session_timeout_ms, detection_interval_seconds)
        if credentials is not None:
            user, password = credentials
            credentials = (_text(user, "the user of credentials"), password)
        self._credentials = credentials

    def _open(self) -> _engine.LockManager:
        return _engine.LockManager.zookeeper(
            (self.zk_connection_string, self.lock_root_path),
            self._timing(),
            self._credentials,
            self._wait_max,
            self._lease,
        )


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        # Not shown: it may hold a password.
        raise ConfigError(f"{name} is no str, or empty; give a str")
    return value


def _times(session_timeout_ms: object, detection_interval_seconds: object) -> tuple[float, float]:
    """Session timeout and detection interval in seconds."""
    session = positive(session_timeout_ms, "session_timeout_ms")
    detection = positive(detection_interval_seconds, "detection_interval_seconds")
    if session is None or detection is None:
        raise ConfigError(
            "session_timeout_ms and detection_interval_seconds must be numbers greater than 0"
        )
    return session / 1000, detection
