"""What a configuration names, made: the node of the cluster, lock manager, event bus, tracing.

Nothing is opened here, and nothing is chosen: each is made with the settings that are for it.
Invariant: a setting that a part has is handed to it; `tests/python/test_config_keys.py` has a row
for every key.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._config import CoordinationConfig
from ._exceptions import ConfigError

if TYPE_CHECKING:
    from . import _engine
    from ._events import IEventBus
    from ._locks import IDistributedLockManager
    from ._native_locks import NativeLockManager
    from ._raft import RaftConsensusService
    from ._tracing import Tracing
    from ._webhook import WebhookAlerting

_TLS = ("certificate", "key", "authority")


def consensus_of(
    config: CoordinationConfig, node_id: str | None = None
) -> RaftConsensusService | None:
    """Make this process's node of the cluster; None where no cluster is configured.

    `node_id` goes before the configuration's. Raises ConfigError where neither says which node
    this is.
    """
    consensus = config.consensus
    if consensus.algorithm == "local" or not consensus.cluster_nodes:
        return None
    this = config.node_id if node_id is None else node_id
    if this is None:
        nodes = config.setting("consensus.cluster_nodes")
        raise ConfigError(
            f"{nodes.origin}: consensus.cluster_nodes names a cluster, and node_id is not given",
            hint="say which of them this process is, by node_id or UNANIMITY_NODE_ID",
        )
    from ._raft import RaftConsensusService

    tls = {name: getattr(config.tls, name) for name in _TLS}
    return RaftConsensusService(
        this,
        consensus.cluster_nodes,
        consensus.election_timeout_ms,
        consensus.heartbeat_interval_ms,
        data_dir=config.data_dir,
        tls=None if None in tls.values() else tls,
        secret=config.secret,
        log_compaction_threshold=consensus.log_compaction_threshold,
        cluster=config.cluster,
        listen=config.listen,
        insecure=config.insecure,
    )


def journal_of(config: CoordinationConfig) -> str | None:
    """Where the journal is; None where nobody says."""
    if config.journal is not None:
        journal: str = config.journal
        return journal
    # A cluster keeps it itself; the database may then be for locks and events.
    if config.consensus.cluster_nodes and config.consensus.algorithm != "local":
        return None
    database: str | None = config.database.connection_string
    return _address(database) if database is not None else None


def _address(database: str) -> str:
    """Give a PostgreSQL address as the journal knows it, also for a list of key=value."""
    if "://" in database:
        return database
    raise ConfigError(
        "database.connection_string is a list of key=value, which cannot say where a journal is",
        hint="give postgresql://user:password@host:5432/database",
    )


def lock_manager_of(
    config: CoordinationConfig, consensus: object = None
) -> IDistributedLockManager | None:
    """Make the lock manager; None for the locks of this process, as a service has them anyway."""
    locks = config.lock_manager
    # A service adds the bound on waits itself; this one is for who uses the manager otherwise.
    detection = locks.deadlock_detection
    backend = _backend(config)
    bounds: dict[str, Any] = {"max_wait_time_seconds": detection.max_wait_time_seconds}
    if backend == "raft":
        return _raft_locks(consensus, bounds)
    if backend == "local" and detection.enabled:
        return None
    manager = _NATIVE[backend](config, bounds)
    manager.detects_deadlocks = detection.enabled
    return manager


def _backend(config: CoordinationConfig) -> str:
    locks = config.lock_manager
    if locks.backend is None:
        return "local" if locks.zookeeper.connection_string is None else "zookeeper"
    backend: str = locks.backend
    return backend


def is_shared(config: CoordinationConfig) -> bool:
    """Whether its locks are on a server that can be asked from anywhere."""
    return _backend(config) in ("postgres", "zookeeper")


def _local_locks(config: CoordinationConfig, bounds: dict[str, Any]) -> NativeLockManager:
    from ._lock_managers import LocalLockManager

    return LocalLockManager(**bounds)


def _postgres_locks(config: CoordinationConfig, bounds: dict[str, Any]) -> NativeLockManager:
    from ._lock_managers import PostgresLockManager

    locks = config.lock_manager
    return PostgresLockManager(
        locks.postgres.connection_string or config.database.connection_string,
        session_timeout_ms=locks.postgres.session_timeout_ms,
        detection_interval_seconds=locks.deadlock_detection.detection_interval_seconds,
        connections=locks.postgres.connections,
        **bounds,
    )


def _zookeeper_locks(config: CoordinationConfig, bounds: dict[str, Any]) -> NativeLockManager:
    from ._lock_managers import ZooKeeperLockManager

    locks = config.lock_manager
    user, password = locks.zookeeper.user, locks.zookeeper.password
    return ZooKeeperLockManager(
        locks.zookeeper.connection_string,
        locks.zookeeper.lock_root_path,
        locks.zookeeper.session_timeout_ms,
        credentials=None if user is None else (user, password),
        detection_interval_seconds=locks.deadlock_detection.detection_interval_seconds,
        **bounds,
    )


_NATIVE = {"local": _local_locks, "postgres": _postgres_locks, "zookeeper": _zookeeper_locks}


def _raft_locks(consensus: object, bounds: dict[str, Any]) -> IDistributedLockManager:
    from ._raft import RaftConsensusService
    from ._raft_locks import RaftLockManager

    if not isinstance(consensus, RaftConsensusService):
        raise ConfigError(
            "lock_manager.backend is raft, and there is no node of a cluster",
            hint="give consensus.cluster_nodes and node_id, or consensus_service=",
        )
    return RaftLockManager(consensus, **bounds)


def event_bus_of(config: CoordinationConfig, journal: str | None) -> IEventBus | None:
    """Make the event bus; None for none. `journal` is where the service's journal is."""
    bus = config.event_bus
    if bus.backend == "none":
        return None
    from . import _event_buses

    if bus.backend == "in_process":
        return _event_buses.InProcessEventBus(queue_size=bus.queue_size)
    if bus.backend == "postgres":
        return _event_buses.PostgresEventBus(bus.url or config.database.connection_string)
    if bus.backend == "nats":
        return _event_buses.NatsEventBus(
            bus.url, stream=bus.stream, partitions=bus.partitions, replicas=bus.replicas
        )
    return _event_buses.JournalEventBus(journal or "unanimity.db")


_ABSENT = (
    "monitoring.distributed_tracing_enabled is true, and opentelemetry-api is not installed: no "
    "spans are made; install it with pip install 'unanimity[otel]', or set the key to false"
)
_said: set[str] = set()


def tracing_of(
    config: CoordinationConfig, bridge: _engine.Bridge, stores: Mapping[str, object]
) -> Tracing | None:
    """Make what makes spans; None where tracing is off, or cannot act.

    Left at its default it acts where the program has imported `opentelemetry`: nobody else could
    see the spans, and importing it takes its time. That it was asked for and is not installed is
    logged once: a configuration that names it is no reason not to coordinate.
    """
    asked = config.setting("monitoring.distributed_tracing_enabled")
    if not asked.value or (asked.where == "default" and "opentelemetry.trace" not in sys.modules):
        return None
    try:
        from ._tracing import Tracing
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        if _ABSENT not in _said:
            _said.add(_ABSENT)
            logging.getLogger("unanimity.tracing").warning(_ABSENT)
        return None
    return Tracing(bridge, config.monitoring.trace_sampling_rate, stores)


def alerting_of(config: CoordinationConfig) -> WebhookAlerting | None:
    """Make the webhook of alerts; None where none is configured."""
    alerts = config.monitoring.alerts
    if alerts.webhook_url is None:
        return None
    from ._webhook import WebhookAlerting

    return WebhookAlerting(alerts.webhook_url, secret=alerts.webhook_secret)


async def close_all(parts: list[Any]) -> None:
    """Close what a service made itself, what was made last first."""
    while parts:
        part = parts.pop()
        if part is not None:
            await part.close()
