"""unanimity: several stores change as one, or none does.

Names only. The vocabulary is imported at once; the service, which brings asyncio and the native
engine, on first use, so that importing this package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._consensus import IConsensusService
from ._events import IEventBus, ParkedEvent, Subscription
from ._exceptions import (
    ConfigError,
    ConsensusError,
    DeadlockDetected,
    EventBusError,
    InternalError,
    InvalidRequest,
    JournalError,
    LockError,
    LockLost,
    LockTimeout,
    NoQuorum,
    NotLeader,
    Permanent,
    ServiceClosed,
    ServiceElsewhere,
    StoreError,
    TransactionAborted,
    TransactionError,
    TransactionFailed,
    TransactionInDoubt,
    UnanimityError,
)
from ._locks import (
    ActiveLock,
    Deadlock,
    IDistributedLockManager,
    LockAcquisitionResult,
    LockInfo,
)
from ._metrics import IAlertingService, IMetricsCollector
from ._stores import (
    AbortResult,
    CommitResult,
    Event,
    IStorageStore,
    OperationRequest,
    OperationResult,
    PrepareRequest,
    PrepareResult,
)
from ._types import (
    CoordinationContext,
    CoordinationRequest,
    CoordinationResult,
    CoordinationType,
    LockType,
    Outcome,
    TransactionState,
)

if TYPE_CHECKING:
    from ._alerting import LogAlerting
    from ._config import ConfigProblem, ConfigSetting, CoordinationConfig
    from ._event_buses import (
        InProcessEventBus,
        JournalEventBus,
        NatsEventBus,
        PostgresEventBus,
    )
    from ._event_handler import CoordinationEventHandler
    from ._latency import Latency, LatencyRow
    from ._lock_managers import LocalLockManager, PostgresLockManager, ZooKeeperLockManager
    from ._lock_views import LockTable, WaitGraph
    from ._metrics_server import MetricsServer
    from ._participant import Participant, ParticipantOperation
    from ._prometheus import PrometheusMetrics
    from ._raft import LogEntry, RaftConsensusService
    from ._raft_locks import RaftLockManager
    from ._raft_views import ClusterStatus
    from ._records import CoordinationRecord, History, RecoveryReport, StoreRecord
    from ._saga import Saga, SagaStep
    from ._service import CoordinationService, ICoordinationService
    from ._steps import DeadLetter, StepRecord
    from ._streams import ProjectionRecord, Snapshot
    from ._timeline import Timeline, TimelineEntry
    from ._transaction import Transaction
    from ._watch import Overview
    from ._webhook import WebhookAlerting

    __version__: str

__all__ = [
    # the vocabulary
    "CoordinationType",
    "TransactionState",
    "LockType",
    "Outcome",
    "CoordinationRequest",
    "CoordinationResult",
    "CoordinationContext",
    # the service
    "ICoordinationService",
    "CoordinationService",
    "Transaction",
    "Saga",
    "SagaStep",
    "CoordinationRecord",
    "StoreRecord",
    "Timeline",
    "TimelineEntry",
    "History",
    "Overview",
    "Latency",
    "LatencyRow",
    "RecoveryReport",
    "StepRecord",
    "DeadLetter",
    "Snapshot",
    "ProjectionRecord",
    # the configuration
    "CoordinationConfig",
    "ConfigSetting",
    "ConfigProblem",
    # stores
    "IStorageStore",
    "PrepareRequest",
    "PrepareResult",
    "CommitResult",
    "AbortResult",
    "OperationRequest",
    "OperationResult",
    "Participant",
    "ParticipantOperation",
    "Event",
    # locks, consensus, events, metrics, alerts
    "IDistributedLockManager",
    "LockAcquisitionResult",
    "LockInfo",
    "ActiveLock",
    "Deadlock",
    "LockTable",
    "WaitGraph",
    "LocalLockManager",
    "PostgresLockManager",
    "ZooKeeperLockManager",
    "IConsensusService",
    "RaftConsensusService",
    "ClusterStatus",
    "RaftLockManager",
    "LogEntry",
    "IEventBus",
    "InProcessEventBus",
    "JournalEventBus",
    "PostgresEventBus",
    "NatsEventBus",
    "Subscription",
    "ParkedEvent",
    "CoordinationEventHandler",
    "IMetricsCollector",
    "PrometheusMetrics",
    "MetricsServer",
    "IAlertingService",
    "LogAlerting",
    "WebhookAlerting",
    # exceptions
    "UnanimityError",
    "ConfigError",
    "JournalError",
    "InvalidRequest",
    "ServiceClosed",
    "ServiceElsewhere",
    "StoreError",
    "Permanent",
    "LockError",
    "LockTimeout",
    "DeadlockDetected",
    "LockLost",
    "ConsensusError",
    "NotLeader",
    "NoQuorum",
    "EventBusError",
    "TransactionError",
    "TransactionAborted",
    "TransactionFailed",
    "TransactionInDoubt",
    "InternalError",
]

_LATE = {
    "CoordinationConfig": "_config",
    "ConfigSetting": "_config",
    "ConfigProblem": "_config",
    "CoordinationService": "_service",
    "ICoordinationService": "_service",
    "InProcessEventBus": "_event_buses",
    "JournalEventBus": "_event_buses",
    "PostgresEventBus": "_event_buses",
    "NatsEventBus": "_event_buses",
    "CoordinationEventHandler": "_event_handler",
    "PrometheusMetrics": "_prometheus",
    "MetricsServer": "_metrics_server",
    "LocalLockManager": "_lock_managers",
    "PostgresLockManager": "_lock_managers",
    "ZooKeeperLockManager": "_lock_managers",
    "LogAlerting": "_alerting",
    "WebhookAlerting": "_webhook",
    "LogEntry": "_raft",
    "RaftConsensusService": "_raft",
    "RaftLockManager": "_raft_locks",
    "Transaction": "_transaction",
    "Saga": "_saga",
    "SagaStep": "_saga",
    "Participant": "_participant",
    "ParticipantOperation": "_participant",
    "CoordinationRecord": "_records",
    "StoreRecord": "_records",
    "Timeline": "_timeline",
    "TimelineEntry": "_timeline",
    "Overview": "_watch",
    "Latency": "_latency",
    "LatencyRow": "_latency",
    "LockTable": "_lock_views",
    "WaitGraph": "_lock_views",
    "ClusterStatus": "_raft_views",
    "History": "_records",
    "RecoveryReport": "_records",
    "StepRecord": "_steps",
    "DeadLetter": "_steps",
    "Snapshot": "_streams",
    "ProjectionRecord": "_streams",
}


def __getattr__(name: str) -> object:
    """Import the service's names, and ask the engine for the version, when first used."""
    if name == "__version__":
        from ._engine import version

        value: object = version()
    elif name in _LATE:
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
