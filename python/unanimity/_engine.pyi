"""Stub of the native module: what the package asks of the engine, and in which shapes.

Every method that takes a future returns at once; the answer, or an exception of
`unanimity._exceptions`, arrives in the future on its own loop's thread. A future that was
cancelled meanwhile is left alone. Times are whole microseconds since 1970 in UTC.
"""

from asyncio import Future
from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import Any, final

from ._types import CoordinationRequest, CoordinationResult

def version() -> str: ...

@final
class Bridge: ...

class _NativeStore:
    def prepare(
        self,
        bridge: Bridge,
        future: Future[tuple[str, str | None]],
        transaction_id: str,
        operations: Sequence[Mapping[str, Any]],
        timeout: float,
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
    def __init__(self, name: str) -> None: ...
    def get(self, bridge: Bridge, future: Future[Any], key: str) -> None: ...

@final
class FileStore(_NativeStore):
    def __init__(self, root: str, name: str) -> None: ...
    def get(self, bridge: Bridge, future: Future[bytes | None], key: str) -> None: ...

@final
class SqliteStore(_NativeStore):
    def __init__(self, path: str, name: str) -> None: ...
    def fetch(
        self,
        bridge: Bridge,
        future: Future[list[dict[str, Any]]],
        statement: str,
        parameters: Sequence[Any],
    ) -> None: ...

@final
class PostgresStore(_NativeStore):
    def __init__(self, dsn: str, name: str, min_connections: int, max_connections: int) -> None: ...
    def fetch(
        self,
        bridge: Bridge,
        future: Future[list[dict[str, Any]]],
        statement: str,
        parameters: Sequence[Any],
    ) -> None: ...

@final
class Coordinator:
    def __init__(
        self,
        bridge: Bridge,
        *,
        journal: str,
        stores: dict[str, object],
        config: dict[str, Any],
        consensus: object | None,
        event_bus: object | None,
        metrics: object | None,
        alerting: object | None,
    ) -> None: ...
    def start(self, future: Future[None]) -> None: ...
    def close(self, future: Future[None], timeout: float | None) -> None: ...
    def coordinate(
        self,
        request: CoordinationRequest,
        context: Context,
        future: Future[CoordinationResult],
    ) -> None: ...
    def status(self, coordination_id: str, future: Future[CoordinationResult | None]) -> None: ...
    def wait_for(self, coordination_id: str, future: Future[CoordinationResult]) -> None: ...
    def abort(self, coordination_id: str, reason: str, future: Future[bool]) -> None: ...
    def active(self) -> list[str]: ...
    def recover(self, future: Future[dict[str, list[str]]]) -> None: ...
    def resolve(
        self,
        coordination_id: str,
        outcome: str,
        reason: str,
        future: Future[CoordinationResult],
    ) -> None: ...
    # The keys of a filter: states (list of values, empty for all), coordination_type (value or
    # None), store (str or None), since (microseconds or None), limit (int).
    def history(self, filter: dict[str, Any], future: Future[list[dict[str, Any]]]) -> None: ...
    def describe(self, coordination_id: str, future: Future[dict[str, Any] | None]) -> None: ...
    def journal_status(self, future: Future[dict[str, Any]]) -> None: ...

@final
class JournalReader:
    def __init__(self, path: str) -> None: ...
    def status(self) -> dict[str, Any]: ...
    def history(self, filter: dict[str, Any]) -> list[dict[str, Any]]: ...
    def describe(self, coordination_id: str) -> dict[str, Any] | None: ...
    def resolve(self, coordination_id: str, outcome: str, reason: str) -> dict[str, Any]: ...
    def migrate(self) -> dict[str, Any]: ...
