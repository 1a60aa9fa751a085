"""The public contract, name by name: classes, fields, order, defaults, enum values, signatures."""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC
from datetime import datetime, timezone
from enum import Enum
from typing import Any

import pytest

import unanimity
from unanimity import stores

MISSING = dataclasses.MISSING

ENUMS = {
    "CoordinationType": {
        "TWO_PHASE_COMMIT": "two_phase_commit",
        "SAGA_ORCHESTRATION": "saga_orchestration",
        "SAGA_CHOREOGRAPHY": "saga_choreography",
        "EVENT_SOURCING": "event_sourcing",
        "EVENTUAL_CONSISTENCY": "eventual_consistency",
    },
    "TransactionState": {
        name.upper(): name
        for name in (
            [
                "initiated",
                "preparing",
                "prepared",
                "committing",
                "committed",
                "aborting",
                "aborted",
                "failed",
            ]
        )
    },
    "LockType": {
        name.upper(): name for name in ["exclusive", "shared", "intent_exclusive", "intent_shared"]
    },
    "Outcome": {
        name.upper(): name for name in ["committed", "aborted", "unknown", "heuristic", "refused"]
    },
}

# Fields in positional order; `name=value` has a default.
DATACLASSES: dict[str, list[tuple[str, Any]]] = {
    "CoordinationRequest": [
        ("coordination_id", MISSING),
        ("coordination_type", MISSING),
        ("participating_stores", MISSING),
        ("operations", MISSING),
        ("timeout_seconds", 300),
        ("consistency_level", "strong"),
        ("metadata", {}),
    ],
    "CoordinationResult": [
        ("coordination_id", MISSING),
        ("success", MISSING),
        ("final_state", MISSING),
        ("error_message", MISSING),
        ("execution_duration_ms", MISSING),
        ("participating_stores", MISSING),
        ("operations_completed", MISSING),
        ("operations_failed", MISSING),
        ("code", None),
    ],
    "CoordinationContext": [
        ("coordination_id", MISSING),
        ("coordination_type", MISSING),
        ("participating_stores", MISSING),
        ("operations", MISSING),
        ("timeout_seconds", MISSING),
        ("started_at", MISSING),
        ("state", unanimity.TransactionState.INITIATED),
    ],
    "PrepareRequest": [
        ("transaction_id", MISSING),
        ("operations", MISSING),
        ("timeout_seconds", MISSING),
        ("fencing_tokens", {}),
        ("metadata", {}),
    ],
    "PrepareResult": [("store_name", MISSING), ("vote", MISSING), ("reason", None)],
    "CommitResult": [("store_name", MISSING), ("status", MISSING), ("error_message", None)],
    "AbortResult": [("store_name", MISSING), ("status", MISSING), ("error_message", None)],
    "OperationRequest": [
        ("transaction_id", MISSING),
        ("operation_id", MISSING),
        ("operation", MISSING),
        ("attempt", MISSING),
        ("context", MISSING),
        ("timeout_seconds", MISSING),
        ("metadata", {}),
    ],
    "OperationResult": [
        ("store_name", MISSING),
        ("status", MISSING),
        ("result", None),
        ("error_message", None),
        ("retryable", True),
    ],
    "Event": [
        (name, MISSING)
        for name in (
            [
                "stream_id",
                "version",
                "event_type",
                "data",
                "metadata",
                "global_position",
                "recorded_at",
            ]
        )
    ],
    "LockInfo": [
        (name, MISSING)
        for name in (
            [
                "resource_id",
                "lock_type",
                "requester_id",
                "state",
                "lock_id",
                "position",
                "since",
                "expires_at",
                "fencing_token",
            ]
        )
    ],
    "ActiveLock": [
        ("lock_id", MISSING),
        ("resource_id", MISSING),
        ("lock_type", MISSING),
        ("requester_id", MISSING),
        ("acquired_at", MISSING),
        ("fencing_token", None),
        ("zk_path", None),
    ],
    "LockAcquisitionResult": [
        ("acquired", MISSING),
        ("lock_id", None),
        ("acquired_at", None),
        ("error_message", None),
        ("fencing_token", None),
        ("deadlock_cycle", None),
    ],
    "Deadlock": [
        (name, MISSING)
        for name in ["victim_transaction", "deadlock_cycle", "resource_id", "detected_at"]
    ],
    "LogEntry": [
        (name, MISSING)
        for name in ["term", "index", "coordination_id", "decision", "evidence", "timestamp"]
    ],
    "RecoveryReport": [
        (name, []) for name in ["committed", "aborted", "resumed", "compensated", "in_doubt"]
    ],
}

SIGNATURES = {
    "ICoordinationService.coordinate_transaction": "(self, request)",
    "ICoordinationService.get_coordination_status": "(self, coordination_id)",
    "ICoordinationService.abort_coordination": "(self, coordination_id, reason)",
    "ICoordinationService.list_active_coordinations": "(self)",
    "CoordinationService.__init__": (
        "(self, stores, consensus_service=None, lock_manager=None, event_bus=None, "
        "metrics_collector=None, *, journal='unanimity.db', alerting_service=None, config=None, "
        "node_id=None)"
    ),
    "CoordinationService.start": "(self)",
    "CoordinationService.close": "(self, timeout=None)",
    "CoordinationService.recover": "(self)",
    "CoordinationService.wait_for": "(self, coordination_id, timeout=None)",
    "CoordinationService.history": (
        "(self, *, state=None, coordination_type=None, store=None, since=None, limit=100)"
    ),
    "CoordinationService.describe": "(self, coordination_id)",
    "CoordinationService.read_stream": "(self, stream_id, from_version=0, limit=1000)",
    "CoordinationService.rebuild_projection": "(self, store_name)",
    "CoordinationService.resolve": "(self, coordination_id, outcome, reason)",
    "Transaction.add": "(self, store, type, **fields)",
    "Participant.__init__": "(self, name)",
    "Participant.operation": "(self, type)",
    "Participant.execute_operation": "(self, request)",
    "Participant.compensate_operation": "(self, request)",
    "ParticipantOperation.compensation": "(self, handler)",
    "IStorageStore.prepare_transaction": "(self, request)",
    "IStorageStore.commit_transaction": "(self, transaction_id)",
    "IStorageStore.abort_transaction": "(self, transaction_id)",
    "IStorageStore.execute_operation": "(self, request)",
    "IStorageStore.compensate_operation": "(self, request)",
    "IStorageStore.apply_event": "(self, event)",
    "IStorageStore.list_prepared_transactions": "(self)",
    "IStorageStore.close": "(self)",
    "IDistributedLockManager.acquire_lock": (
        "(self, resource_id, lock_type, requester_id, timeout_seconds=300)"
    ),
    "IDistributedLockManager.release_lock": "(self, lock_id, requester_id)",
    "IDistributedLockManager.check_lock_status": "(self, resource_id)",
    **{
        f"LocalLockManager.{method}": shape
        for method, shape in {
            "acquire_lock": (
                "(self, resource_id, lock_type, requester_id, timeout_seconds=300, *, "
                "lease_seconds=None)"
            ),
            "release_lock": "(self, lock_id, requester_id)",
            "check_lock_status": "(self, resource_id)",
            "lock": (
                "(self, resource_id, lock_type, requester_id, timeout_seconds=300, *, "
                "lease_seconds=None)"
            ),
            "acquire_many": (
                "(self, wishes, requester_id, timeout_seconds=300, *, lease_seconds=None)"
            ),
            "renew": "(self, lock_id, lease_seconds=None)",
            "downgrade": "(self, lock, lock_type, requester_id=None)",
            "release_all": "(self, requester_id)",
            "wait_for_graph": "(self)",
            "deadlocks": "(self)",
            "on_lost": "(self, callback)",
            "on_suspended": "(self, callback)",
            "on_resumed": "(self, callback)",
            "start": "(self)",
            "close": "(self)",
        }.items()
    },
    "IConsensusService.propose_coordination_decision": (
        "(self, coordination_id, decision, evidence)"
    ),
    "IConsensusService.get_consensus_status": "(self, coordination_id)",
    "RaftConsensusService.__init__": (
        "(self, node_id, cluster_nodes, election_timeout_ms=5000, heartbeat_interval_ms=1000, *, "
        "data_dir=None, tls=None, secret=None, log_compaction_threshold=10000, "
        "cluster='unanimity', listen=None, insecure=False)"
    ),
    **{
        f"RaftConsensusService.{method}": shape
        for method, shape in {
            "propose_coordination_decision": "(self, coordination_id, decision, evidence)",
            "get_consensus_status": "(self, coordination_id)",
            "start": "(self)",
            "close": "(self)",
            "status": "(self)",
            "add_node": "(self, node)",
            "remove_node": "(self, node_id)",
            "transfer_leadership": "(self, node_id)",
        }.items()
    },
    "IEventBus.publish_event": "(self, event)",
    "IEventBus.subscribe": "(self, event_type, handler)",
    "IMetricsCollector.increment_counter": "(self, name, value=1, labels=None)",
    "IMetricsCollector.record_histogram": "(self, name, value, labels=None)",
    "IMetricsCollector.set_gauge": "(self, name, value, labels=None)",
    "IAlertingService.send_alert": "(self, severity, title, message, details)",
    "PrometheusMetrics.increment_counter": "(self, name, value=1, labels=None)",
    "PrometheusMetrics.record_histogram": "(self, name, value, labels=None)",
    "PrometheusMetrics.set_gauge": "(self, name, value, labels=None)",
    "PrometheusMetrics.render": "(self)",
    "PrometheusMetrics.serve": "(self, host='127.0.0.1', port=9464)",
    "CoordinationEventHandler.__init__": (
        "(self, coordination_service, metrics_collector, alerting_service)"
    ),
    "CoordinationEventHandler.handle_coordination_event": "(self, event)",
}

NOT_ASYNC = {
    "CoordinationService.__init__",
    "LocalLockManager.lock",
    "RaftConsensusService.__init__",
    "LocalLockManager.on_lost",
    "LocalLockManager.on_suspended",
    "LocalLockManager.on_resumed",
    "Transaction.add",
    "Participant.__init__",
    "Participant.operation",
    "ParticipantOperation.compensation",
    "IMetricsCollector.increment_counter",
    "IMetricsCollector.record_histogram",
    "IMetricsCollector.set_gauge",
    "PrometheusMetrics.increment_counter",
    "PrometheusMetrics.record_histogram",
    "PrometheusMetrics.set_gauge",
    "PrometheusMetrics.render",
    "PrometheusMetrics.serve",
    "CoordinationEventHandler.__init__",
}

STORE_SIGNATURES = {
    "MemoryStore": "(name='memory')",
    "SqliteStore": "(path, name='sqlite')",
    "FileStore": "(root, name='files')",
    "PostgresStore": "(dsn, name='postgres', min_connections=1, max_connections=20, *, "
    "serves_outbox=False)",
    "RedisStore": "(url, name='redis', *, prefix='', waits_for_disk=True)",
}

LOCK_MANAGER_SIGNATURES = {
    "LocalLockManager": "(*, max_wait_time_seconds=None, lease_seconds=None)",
    "PostgresLockManager": (
        "(dsn, *, session_timeout_ms=10000, detection_interval_seconds=1.0, "
        "max_wait_time_seconds=None, lease_seconds=None, connections=2)"
    ),
    "RaftLockManager": "(raft, *, max_wait_time_seconds=None, lease_seconds=None)",
    "ZooKeeperLockManager": (
        "(zk_connection_string, lock_root_path='/memory_os/locks', session_timeout_ms=30000, *, "
        "credentials=None, detection_interval_seconds=1.0, max_wait_time_seconds=None, "
        "lease_seconds=None)"
    ),
}


def shape(function: Any) -> str:
    """A signature without its annotations."""
    signature = inspect.signature(function)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", ENUMS)
def test_enums_have_exactly_these_members(name: str) -> None:
    kind = getattr(unanimity, name)
    assert issubclass(kind, Enum)
    assert {member.name: member.value for member in kind} == ENUMS[name]


@pytest.mark.parametrize("name", DATACLASSES)
def test_dataclasses_have_these_fields_in_this_order(name: str) -> None:
    kind = getattr(unanimity, name)
    found = []
    for field in dataclasses.fields(kind):
        made = field.default_factory
        found.append((field.name, field.default if made is MISSING else made()))
    assert found == DATACLASSES[name]


@pytest.mark.parametrize("path", SIGNATURES)
def test_methods_take_these_arguments(path: str) -> None:
    kind, method = path.split(".")
    function = getattr(getattr(unanimity, kind), method)
    assert shape(function) == SIGNATURES[path]
    assert inspect.iscoroutinefunction(function) is (path not in NOT_ASYNC)


@pytest.mark.parametrize("name", LOCK_MANAGER_SIGNATURES)
def test_the_lock_managers_take_these_arguments(name: str) -> None:
    kind = getattr(unanimity, name)
    assert issubclass(kind, unanimity.IDistributedLockManager)
    assert shape(kind) == LOCK_MANAGER_SIGNATURES[name]


@pytest.mark.parametrize("name", STORE_SIGNATURES)
def test_the_native_stores_take_these_arguments(name: str) -> None:
    kind = getattr(stores, name)
    assert issubclass(kind, unanimity.IStorageStore)
    assert shape(kind) == STORE_SIGNATURES[name]


def test_a_transaction_is_made_with_keywords_only() -> None:
    parameters = inspect.signature(unanimity.CoordinationService.transaction).parameters
    assert list(parameters)[1:] == [
        "coordination_id",
        "coordination_type",
        "timeout_seconds",
        "consistency_level",
        "metadata",
    ]
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != "self")


@pytest.mark.parametrize(
    "name",
    [
        "ICoordinationService",
        "IStorageStore",
        "IDistributedLockManager",
        "IConsensusService",
        "IEventBus",
        "IMetricsCollector",
        "IAlertingService",
    ],
)
def test_interfaces_are_real_abcs(name: str) -> None:
    assert ABC in getattr(unanimity, name).__bases__


def test_the_service_is_of_its_interface() -> None:
    assert issubclass(unanimity.CoordinationService, unanimity.ICoordinationService)
    with pytest.raises(TypeError, match="abstract"):
        unanimity.ICoordinationService()  # type: ignore[abstract]


def test_the_original_positional_calls_still_work() -> None:
    kind = unanimity.CoordinationType.TWO_PHASE_COMMIT
    request = unanimity.CoordinationRequest("t1", kind, ["a"], [{}], 30, "strong", {"k": 1})
    assert (request.timeout_seconds, request.consistency_level, request.metadata) == (
        30,
        "strong",
        {"k": 1},
    )
    short = unanimity.CoordinationRequest("t1", kind, ["a"], [])
    assert short.metadata is not unanimity.CoordinationRequest("t2", kind, ["a"], []).metadata
    context = unanimity.CoordinationContext(
        coordination_id="t1",
        coordination_type=kind,
        participating_stores=["a"],
        operations=[],
        timeout_seconds=30,
        started_at=datetime.now(timezone.utc),
    )
    context.state = unanimity.TransactionState.PREPARING
    assert unanimity.PrepareResult(store_name="a", vote="ABORT", reason="no").reason == "no"


def test_lock_answers_are_made_by_their_class_methods() -> None:
    now = datetime.now(timezone.utc)
    granted = unanimity.LockAcquisitionResult.success(lock_id="r:shared:1", acquired_at=now)
    refused = unanimity.LockAcquisitionResult.failed(error_message="busy")
    assert (granted.acquired, granted.lock_id, granted.acquired_at) == (True, "r:shared:1", now)
    assert (refused.acquired, refused.error_message, refused.lock_id) == (False, "busy", None)


def test_a_bus_and_a_collector_of_the_original_design_can_be_made() -> None:
    class Bus(unanimity.IEventBus):
        async def publish_event(self, event: dict[str, Any]) -> None: ...

    class Collector(unanimity.IMetricsCollector):
        def increment_counter(
            self, name: str, value: float = 1, labels: dict[str, str] | None = None
        ) -> None: ...

        def record_histogram(
            self, name: str, value: float, labels: dict[str, str] | None = None
        ) -> None: ...

    assert Bus() and Collector()


def test_the_constructor_keeps_what_it_was_given_under_the_original_names() -> None:
    bus, metrics, locks, consensus = object(), object(), object(), object()
    service = unanimity.CoordinationService({}, consensus, locks, bus, metrics)  # type: ignore[arg-type]
    assert service.stores == {}
    assert (service.consensus, service.lock_manager) == (consensus, locks)
    assert (service.event_bus, service.metrics) == (bus, metrics)
    assert service.active_coordinations == {}
