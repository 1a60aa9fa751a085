"""Stub of the native module: what the package asks of the engine, and in which shapes.

Every method that takes a future returns at once; the answer, or an exception of
`unanimity._exceptions`, arrives in the future on its own loop's thread. A future that was
cancelled meanwhile is left alone. Times are whole microseconds since 1970 in UTC.
"""

from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar, final

from ._locks import ActiveLock, Deadlock, LockAcquisitionResult, LockInfo
from ._stores import Event
from ._types import CoordinationRequest, CoordinationResult, LockType

__all__ = [
    "Bridge",
    "Coordinator",
    "EventBus",
    "EventSubscription",
    "FileStore",
    "JournalReader",
    "LockManager",
    "LockWait",
    "MemoryStore",
    "PostgresStore",
    "RaftClient",
    "RaftNode",
    "RedisStore",
    "SqliteStore",
    "Streams",
    "after_fork_in_child",
    "after_fork_in_parent",
    "before_fork",
    "draw_steps",
    "draw_waits",
    "node_addresses",
    "shutdown",
    "version",
    "wait_circles",
    "config_keys",
    "config_schema",
    "read_config",
]

_Answer = TypeVar("_Answer")

def node_addresses(nodes: Sequence[str]) -> list[tuple[str, str]]: ...
def read_config(
    file: str | None,
    mapping: dict[str, Any] | None,
    environment: dict[str, str],
    arguments: dict[str, Any] | None,
) -> tuple[
    list[tuple[str, Any, Any, str, int | None, str | None]],
    list[tuple[str, int | None, str, str, str, str]],
]: ...
def config_keys() -> list[tuple[str, str, bool]]: ...
def config_schema() -> str: ...
def version() -> str: ...
def shutdown() -> None: ...
def before_fork() -> None: ...
def after_fork_in_parent() -> None: ...
def after_fork_in_child() -> None: ...

@final
class Bridge:
    def __new__(cls) -> Bridge: ...
    def fileno(self) -> int: ...
    def woken(self) -> bool: ...
    # token, method, arguments, keywords, context, is_async, timeout in seconds
    def next_call(
        self,
    ) -> (
        tuple[
            int,
            Callable[..., Any],
            tuple[Any, ...],
            dict[str, Any] | None,
            Context | None,
            bool,
            float,
        ]
        | None
    ): ...
    def lane_suspends(self) -> bool: ...
    def lane_ended(self) -> None: ...
    def lane_dies(self) -> None: ...
    def answer(self, token: int, answer: object) -> None: ...
    def raised(self, token: int, error: BaseException) -> None: ...
    def close(self) -> None: ...

class _NativeStore:
    def prepare(
        self,
        bridge: Bridge,
        future: Future[tuple[str, str | None]],
        transaction_id: str,
        operations: Sequence[Mapping[str, Any]],
        timeout: float,
        fencing_tokens: dict[str, int] | None = None,
    ) -> None: ...
    def commit(
        self, bridge: Bridge, future: Future[tuple[str, str | None]], transaction_id: str
    ) -> None: ...
    def abort(
        self, bridge: Bridge, future: Future[tuple[str, str | None]], transaction_id: str
    ) -> None: ...
    def list_prepared(self, bridge: Bridge, future: Future[list[str]]) -> None: ...
    def close(self) -> None: ...

@final
class MemoryStore(_NativeStore):
    def __new__(cls, name: str) -> MemoryStore: ...
    def get(self, bridge: Bridge, future: Future[Any], key: str) -> None: ...

@final
class FileStore(_NativeStore):
    def __new__(cls, root: str, name: str) -> FileStore: ...
    def get(self, bridge: Bridge, future: Future[bytes | None], key: str) -> None: ...

@final
class SqliteStore(_NativeStore):
    def __new__(cls, path: str, name: str) -> SqliteStore: ...
    def fetch(
        self,
        bridge: Bridge,
        future: Future[list[dict[str, Any]]],
        statement: str,
        parameters: Sequence[Any],
    ) -> None: ...

@final
class PostgresStore(_NativeStore):
    def __new__(
        cls, dsn: str, name: str, min_connections: int, max_connections: int, outbox: bool
    ) -> PostgresStore: ...
    def fetch(
        self,
        bridge: Bridge,
        future: Future[list[dict[str, Any]]],
        statement: str,
        parameters: Sequence[Any],
    ) -> None: ...

@final
class RedisStore(_NativeStore):
    def __new__(cls, url: str, name: str, prefix: str, waits_for_disk: bool) -> RedisStore: ...
    def get(self, bridge: Bridge, future: Future[bytes | None], key: str) -> None: ...
    def durability(self) -> tuple[str, bool, str]: ...

@final
class LockWait(Generic[_Answer]):
    @property
    def future(self) -> Future[_Answer]: ...
    def give_up(self) -> None: ...

# An answer that is there at once comes as it is; for another one there is something to await.
@final
class LockManager:
    @staticmethod
    def local(wait_max: float | None, lease: float | None, detects: bool) -> LockManager: ...
    @staticmethod
    def postgres(
        dsn: str,
        times: tuple[float, float | None],
        connections: int,
        wait_max: float | None,
        lease: float | None,
    ) -> LockManager: ...
    @staticmethod
    def raft(node: RaftNode, wait_max: float | None, lease: float | None) -> LockManager: ...
    @staticmethod
    def zookeeper(
        place: tuple[str, str],
        times: tuple[float, float | None],
        credentials: tuple[str, str] | None,
        wait_max: float | None,
        lease: float | None,
    ) -> LockManager: ...
    def come_home(self, bridge: Bridge, create_future: Callable[[], Future[Any]]) -> None: ...
    def reach(self) -> bool | Future[bool]: ...
    def listen(
        self,
        lost: Callable[[str, str, str], None],
        suspended: Callable[[str, str, float], None],
        resumed: Callable[[str, str], None],
    ) -> None: ...
    def acquire(
        self,
        names: tuple[str, LockType | str, str],
        timeout: float | None,
        lease: float | None,
    ) -> LockAcquisitionResult | LockWait[LockAcquisitionResult]: ...
    def hold(
        self,
        names: tuple[str, LockType | str, str],
        timeout: float | None,
        lease: float | None,
    ) -> ActiveLock | LockWait[ActiveLock]: ...
    def hold_many(
        self,
        wishes: Sequence[tuple[str, LockType | str]],
        requester: str,
        timeout: float | None,
        lease: float | None,
    ) -> list[ActiveLock] | LockWait[list[ActiveLock]]: ...
    def release(self, lock_id: str, requester: str) -> bool | Future[bool]: ...
    def release_all(self, requester: str) -> int | Future[int]: ...
    def renew(self, lock_id: str, lease: float) -> bool | Future[bool]: ...
    def downgrade(
        self, lock_id: str, mode: LockType | str, requester: str
    ) -> ActiveLock | Future[ActiveLock | None] | None: ...
    def status(self, resource: str | None) -> list[LockInfo] | Future[list[LockInfo]]: ...
    def wait_for_graph(self) -> dict[str, list[str]] | Future[dict[str, list[str]]]: ...
    def deadlocks(self) -> list[Deadlock]: ...
    def close(self, future: Future[bool]) -> None: ...

# The forms are "text", "dot" and "svg".
def draw_waits(
    waits: Mapping[str, Sequence[str]], wants: Mapping[str, Sequence[str]], form: str
) -> str: ...

# A step: its name, its lines, its state and the same in words, whether it is the pivot.
def draw_steps(
    title: str,
    note: str,
    steps: Sequence[tuple[str, Sequence[str], str | None, Sequence[str], bool]],
    edges: Sequence[tuple[int, int]],
) -> str: ...
def wait_circles(waits: Mapping[str, Sequence[str]]) -> list[list[str]]: ...

@final
class EventBus:
    @staticmethod
    def in_process(queue_max: int) -> EventBus: ...
    @staticmethod
    def journal(journal: str) -> EventBus: ...
    @staticmethod
    def postgres(dsn: str, patience: float) -> EventBus: ...
    # url and stream; partitions and replicas; publishing, redelivery, events, ids in seconds
    @staticmethod
    def nats(
        place: tuple[str, str],
        counts: tuple[int, int],
        times: tuple[float, float, float, float],
    ) -> EventBus: ...
    def publish(self, bridge: Bridge, future: Future[None], event: Mapping[str, Any]) -> None: ...
    # type and group; tries, how many at once, seconds
    def subscribe(
        self,
        bridge: Bridge,
        future: Future[EventSubscription],
        wish: tuple[str | None, str | None],
        handler: Callable[[dict[str, Any]], Any],
        bounds: tuple[int, int, float],
    ) -> None: ...
    # What ParkedEvent.from_engine takes.
    def parked(self, bridge: Bridge, future: Future[list[tuple[Any, ...]]], limit: int) -> None: ...
    def redrive(self, bridge: Bridge, future: Future[bool], event_id: str, group: str) -> None: ...
    def close(self, bridge: Bridge, future: Future[bool]) -> None: ...

@final
class RaftClient:
    # security: the files certificate, key and authority, or a secret, and whether neither is fine
    def __new__(
        cls,
        cluster: str | None,
        security: tuple[tuple[str, str, str] | None, bytes | None, bool],
    ) -> RaftClient: ...
    def status(
        self, bridge: Bridge, future: Future[dict[str, Any]], at: tuple[str, float]
    ) -> None: ...
    # at: the node, and for how many seconds it is waited for; what: "add", "remove" or "transfer",
    # and the node
    def change(
        self,
        bridge: Bridge,
        future: Future[None],
        at: tuple[str, float],
        what: tuple[str, str],
    ) -> None: ...

@final
class RaftNode:
    # names: cluster and node; times: election and heartbeat in milliseconds; security: the files
    # certificate, key and authority, or a secret, and whether neither is fine
    def __new__(
        cls,
        names: tuple[str, str],
        cluster_nodes: Sequence[str],
        times: tuple[int, int],
        log_compaction_threshold: int,
        data_dir: str | None,
        security: tuple[tuple[str, str, str] | None, bytes | None, bool],
        listen: str | None,
    ) -> RaftNode: ...
    def start(self, bridge: Bridge, future: Future[None]) -> None: ...
    def is_running(self) -> bool: ...
    def close(self, bridge: Bridge, future: Future[None]) -> None: ...
    def propose(
        self,
        bridge: Bridge,
        future: Future[bool],
        id: str,
        decision: str,
        evidence: Mapping[str, Any],
    ) -> None: ...
    # "decided_at" is a time
    def read(self, bridge: Bridge, future: Future[dict[str, Any] | None], id: str) -> None: ...
    def add_node(self, bridge: Bridge, future: Future[None], node: str) -> None: ...
    def remove_node(self, bridge: Bridge, future: Future[None], node_id: str) -> None: ...
    def transfer_leadership(self, bridge: Bridge, future: Future[None], node_id: str) -> None: ...
    def status(self, bridge: Bridge, future: Future[dict[str, Any]]) -> None: ...
    # term, vote, commit index, last applied, state, leader
    def facts(self) -> tuple[int, str | None, int, int, str, str | None]: ...
    # the fields of LogEntry, with a time
    def recent_decisions(self) -> list[tuple[int, int, str, str, dict[str, Any], int]]: ...

@final
class EventSubscription:
    def unsubscribe(self, bridge: Bridge, future: Future[bool]) -> None: ...

@final
class Coordinator:
    def __new__(
        cls,
        bridge: Bridge,
        *,
        journal: str | None,
        stores: dict[str, object],
        config: dict[str, Any],
        consensus: object | None,
        lock_manager: object | None,
        event_bus: object | None,
        carrier: EventBus | None,
        metrics: object | None,
        alerting: object | None,
    ) -> Coordinator: ...
    def start(self, future: Future[None]) -> None: ...
    def close(self, future: Future[None], timeout: float | None) -> None: ...
    def coordinate(
        self,
        request: CoordinationRequest,
        context: Context,
        future: Future[CoordinationResult],
    ) -> None: ...
    def status(self, id: str, future: Future[CoordinationResult | None]) -> None: ...
    def wait_for(self, id: str, future: Future[CoordinationResult]) -> None: ...
    def abort(self, id: str, reason: str, future: Future[bool]) -> None: ...
    def active(self) -> list[str]: ...
    def recover(self, future: Future[dict[str, list[str]]]) -> None: ...
    def resolve(
        self,
        id: str,
        outcome: str,
        reason: str,
        future: Future[CoordinationResult],
    ) -> None: ...
    def streams(self) -> Streams: ...
    def dead_letters(self, future: Future[list[dict[str, Any]]]) -> None: ...
    def redrive(
        self, operation_id: str, coordination_id: str | None, future: Future[bool]
    ) -> None: ...
    # The keys of a filter: states (list of values, empty for all), coordination_type (value or
    # None), store (str or None), since (microseconds or None), limit (int).
    def history(self, filter: dict[str, Any], future: Future[list[dict[str, Any]]]) -> None: ...
    def describe(self, id: str, future: Future[dict[str, Any] | None]) -> None: ...
    def journal_status(self, future: Future[dict[str, Any]]) -> None: ...

@final
class Streams:
    def read(
        self, stream: str, from_version: int, limit: int, future: Future[list[Event]]
    ) -> None: ...
    def next_events(
        self, after: int, limit: int, patience: float, future: Future[list[Event]]
    ) -> None: ...
    def version(self, stream: str, future: Future[int]) -> None: ...
    def save_snapshot(
        self, stream: str, version: int, state: object, taken_at: int, future: Future[bool]
    ) -> None: ...
    # Version, state, and when it was taken.
    def load_snapshot(self, stream: str, future: Future[tuple[int, Any, int] | None]) -> None: ...
    # Store, position, the position of the event it is parked at, and the last trouble.
    def projections(
        self, future: Future[list[tuple[str, int, int | None, str | None]]]
    ) -> None: ...
    def rebuild(self, store: str, future: Future[int]) -> None: ...

@final
class JournalReader:
    def __new__(cls, path: str) -> JournalReader: ...
    def status(self) -> dict[str, Any]: ...
    def history(self, filter: dict[str, Any]) -> list[dict[str, Any]]: ...
    def describe(self, id: str) -> dict[str, Any] | None: ...
    def resolve(self, id: str, outcome: str, reason: str) -> dict[str, Any]: ...
    def dead_letters(self) -> list[dict[str, Any]]: ...
    def redrive(self, operation_id: str, coordination_id: str | None) -> bool: ...
    def locks(self) -> list[LockInfo]: ...
    def events(self, after: int, limit: int) -> list[Event]: ...
    def stream(self, stream: str, from_version: int, limit: int) -> list[Event]: ...
    def stream_version(self, stream: str) -> int: ...
    def last_event(self) -> int: ...
    def migrate(self) -> dict[str, Any]: ...
    def close(self) -> None: ...
