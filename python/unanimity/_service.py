"""The service that people hold: it hands requests to the native coordinator and waits.

Not the rules and not the driving: those are the engine's. Invariants: a service belongs to the
event loop and the process that first used it; cancelling an await cancels the wait alone.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from . import _engine
from ._alert_watch import watch_of
from ._alerting import LogAlerting
from ._arguments import (
    checked_journal,
    checked_stores,
    checked_text,
    consensus_for_engine,
    event_bus_for_engine,
    for_engine,
    lock_manager_for_engine,
    start_consensus,
    start_node_of,
)
from ._bridge import bridge_for_running_loop
from ._config import CoordinationConfig, as_config, config_of, settings_of
from ._config_parts import (
    alerting_of,
    close_all,
    consensus_of,
    event_bus_of,
    journal_of,
    lock_manager_of,
    tracing_of,
)
from ._consensus import IConsensusService
from ._events import IEventBus
from ._exceptions import InvalidRequest, ServiceClosed, ServiceElsewhere
from ._ids import mint
from ._lock_managers import LocalLockManager
from ._locks import IDistributedLockManager
from ._looks import ServiceLooks
from ._metrics import IAlertingService, IMetricsCollector
from ._prometheus import NumbersOf, is_ours, metrics_for_service
from ._records import CoordinationRecord, History, RecoveryReport, history_filter
from ._steps import DeadLetter
from ._stores import IStorageStore
from ._streams import EventStreams
from ._transaction import Transaction
from ._types import (
    CoordinationContext,
    CoordinationRequest,
    CoordinationResult,
    CoordinationType,
    TransactionState,
)

if TYPE_CHECKING:
    from ._tracing import Tracing

_Answer = TypeVar("_Answer")


class _Default(str):
    """An argument that was not given, whatever else is equal to it."""

    __slots__ = ()


_DEFAULT_JOURNAL = _Default("unanimity.db")
# Arguments of the constructor that are objects, and no settings.
_OBJECTS = (
    "consensus_service",
    "lock_manager",
    "event_bus",
    "metrics_collector",
    "alerting_service",
)


class ICoordinationService(ABC):
    """Coordinates changes of several stores."""

    @abstractmethod
    async def coordinate_transaction(self, request: CoordinationRequest) -> CoordinationResult:
        """Coordinate a cross-store transaction."""

    @abstractmethod
    async def get_coordination_status(self, coordination_id: str) -> CoordinationResult | None:
        """Say how a coordination stands; None where the id is not known."""

    @abstractmethod
    async def abort_coordination(self, coordination_id: str, reason: str) -> bool:
        """Abort a coordination that is not decided; whether it is aborted now."""

    @abstractmethod
    async def list_active_coordinations(self) -> list[str]:
        """List the ids of coordinations that are under way."""


class CoordinationService(EventStreams, ServiceLooks, ICoordinationService):
    """Changes several stores as one. First use starts it; `async with` also closes it.

    `stores` maps the names that requests use to stores: those of `unanimity.stores`, or any
    object with the methods of `IStorageStore`, async or plain. `journal` is the file in which
    decisions become durable, "memory:", or the address of a PostgreSQL database. With a
    `RaftConsensusService` and no `journal`, the cluster keeps it: when this process dies, a service
    at another node that has the same stores finishes what it began. With both, the cluster keeps
    decisions only.
    """

    def __init__(
        self,
        stores: Mapping[str, IStorageStore | Any],
        consensus_service: IConsensusService | None = None,
        lock_manager: IDistributedLockManager | None = None,
        event_bus: IEventBus | None = None,
        metrics_collector: IMetricsCollector | None = None,
        *,
        journal: str | os.PathLike[str] = _DEFAULT_JOURNAL,
        alerting_service: IAlertingService | None = None,
        config: CoordinationConfig | Mapping[str, Any] | None = None,
        node_id: str | None = None,
    ) -> None:
        """Check the arguments; nothing is opened before the first use."""
        self.stores = checked_stores(stores)
        self.consensus = consensus_service
        self.lock_manager = lock_manager
        self.event_bus = event_bus
        self.alerting = alerting_service
        self._is_journal_given = journal is not _DEFAULT_JOURNAL
        self._journal = checked_journal(journal)
        self.config = as_config(config)
        self._numbers = NumbersOf()
        is_measured = self.config.monitoring.metrics_enabled
        self.metrics: Any = metrics_for_service(metrics_collector, is_measured, self._numbers)
        self._settings = settings_of(self.config, only_given=self.config is not config)
        self._own: list[Any] = []
        self._own_locks: IDistributedLockManager | None = None
        self._take_from_config(node_id)
        self._default_timeout = self._settings.pop("default_transaction_timeout_seconds", 300)
        if node_id is not None:
            self._settings["node_id"] = checked_text(node_id, "node_id")
        self._coordinator: _engine.Coordinator | None = None
        self._tracing: Tracing | None = None
        self._started: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._closed = False
        self._watch = watch_of(self, self.config, self._settings)
        self._under_way: dict[str, tuple[CoordinationRequest, datetime]] = {}

    @classmethod
    def from_config(
        cls,
        config: str | os.PathLike[str] | Mapping[str, Any] | CoordinationConfig,
        stores: Mapping[str, IStorageStore | Any],
        **overrides: Any,
    ) -> CoordinationService:
        """Make a service of a YAML file, a mapping, or a configuration that was read.

        What is given later wins: defaults, the file, the environment, `overrides`. These are keys
        of the file, `timeouts={"prepare_phase_timeout_seconds": 5}`, or the constructor's own
        objects, `lock_manager=`, `metrics_collector=` and so on. What the configuration names is
        made, started and closed with the service.
        """
        objects = {
            name: overrides.pop(name)
            for name in _OBJECTS
            if name in overrides and not isinstance(overrides[name], Mapping)
        }
        return cls(stores, config=config_of(config, overrides), **objects)

    def _take_from_config(self, node_id: str | None) -> None:
        """Make what the configuration names, where the constructor was not given it."""
        config = self.config
        journal = journal_of(config)
        if journal is not None and not self._is_journal_given:
            self._journal, self._is_journal_given = checked_journal(journal), True
        if self.consensus is None:
            self.consensus = consensus_of(config, node_id)
            self._own.append(self.consensus)
        if self.lock_manager is None:
            self.lock_manager = lock_manager_of(config, self.consensus)
            self._own.append(self.lock_manager)
        if self.event_bus is None:
            self.event_bus = event_bus_of(config, self._journal)
            self._own.append(self.event_bus)
        if self.alerting is None:
            webhook = alerting_of(config)
            self.alerting = LogAlerting() if webhook is None else webhook
            self._own.append(webhook)

    # ---- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open journal and stores, and recover what an earlier process left; repeats do nothing."""
        await self._ready()

    async def close(self, timeout: float | None = None) -> None:
        """Let what is under way end, for at most `timeout` seconds, then close; repeats do nothing.

        What is not finished by then stays in the journal, and the next start goes on with it.
        """
        if self._closed:
            return
        started, coordinator = self._started, self._coordinator
        if started is None or coordinator is None:
            self._closed = True
            self._numbers.close()
            await close_all(self._own)
            return
        self._check_home()
        self._closed = True
        if self._watch is not None:
            self._watch.stop()
        await asyncio.wait([started])
        if started.exception() is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            coordinator.close(future, timeout)
            await future
        if self._tracing is not None:
            self._tracing.close()
        self._numbers.close()
        await close_all(self._own)

    async def __aenter__(self) -> CoordinationService:
        await self._ready()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _ready(self) -> _engine.Coordinator:
        """Give the coordinator, started, after checking that this is its home."""
        if self._closed:
            raise ServiceClosed("the service is closed; make another CoordinationService")
        if self._started is None:
            await start_consensus(self.consensus)
            await start_node_of(self.lock_manager)
            self._begin_start()
        self._check_home()
        started, coordinator = self._started, self._coordinator
        assert started is not None and coordinator is not None
        if not started.done():
            # Shielded, because several first users wait for the one start.
            await asyncio.shield(started)
        elif started.exception() is not None:
            self._started = self._coordinator = None
            return await self._ready()
        return coordinator

    def _begin_start(self) -> None:
        # Another first user may have begun, or closed, while the consensus service started.
        if self._closed:
            raise ServiceClosed("the service is closed; make another CoordinationService")
        if self._started is not None:
            return
        loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._loop = loop
        native = {name: for_engine(name, store) for name, store in self.stores.items()}
        consensus = consensus_for_engine(self.consensus)
        is_kept_by_cluster = isinstance(consensus, _engine.RaftNode) and not self._is_journal_given
        bridge = bridge_for_running_loop(self._settings.get("coordination_worker_threads"))
        self._tracing = tracing_of(self.config, bridge, self.stores)
        is_measured = self.config.monitoring.metrics_enabled
        self._coordinator = _engine.Coordinator(
            bridge,
            journal=None if is_kept_by_cluster else self._journal,
            stores=native,
            config=self._settings,
            consensus=consensus,
            lock_manager=lock_manager_for_engine(self._manager()),
            event_bus=self.event_bus,
            carrier=event_bus_for_engine(self.event_bus),
            metrics=self.metrics if is_measured and not is_ours(self.metrics) else None,
            alerting=self.alerting,
            is_measured=is_measured,
            tracer=None if self._tracing is None else self._tracing.native,
        )
        self._numbers.source = self._coordinator
        started: asyncio.Future[None] = loop.create_future()
        self._started = started
        self._coordinator.start(started)
        if self._watch is not None:
            self._watch.start()

    def _manager(self) -> IDistributedLockManager:
        """The lock manager: the given one, or one of this process, which can be looked at too."""
        if self.lock_manager is not None:
            return self.lock_manager
        if self._own_locks is None:
            self._own_locks = LocalLockManager()
            self._own.append(self._own_locks)
        return self._own_locks

    async def _locks(self) -> IDistributedLockManager:
        await self._ready()
        return self._manager()

    def _check_home(self) -> None:
        pid = os.getpid()
        if pid != self._pid:
            raise ServiceElsewhere(
                f"this service belongs to process {self._pid}, and this is process {pid}, forked "
                "from it; make a new CoordinationService after the fork",
                code="service.forked",
            )
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            raise ServiceElsewhere(
                f"this service belongs to the event loop {self._loop!r} that first used it, and "
                f"this is {loop!r}; use it there, or make one service for each loop",
                code="service.other_loop",
            )

    async def _ask(
        self, question: Callable[[_engine.Coordinator, asyncio.Future[_Answer]], None]
    ) -> _Answer:
        """Put a question to the coordinator and wait for its answer."""
        coordinator = await self._ready()
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        question(coordinator, future)
        return await future

    # ---- coordinating -----------------------------------------------------------------------

    async def coordinate_transaction(self, request: CoordinationRequest) -> CoordinationResult:
        """Change all the stores or none, and say how it ended.

        What a request or a store does wrong comes back as a result. Cancelling this await leaves
        the coordination running; `wait_for` its id finds it again.
        """
        if not isinstance(request, CoordinationRequest):
            raise TypeError(
                f"coordinate_transaction() takes a CoordinationRequest, not a "
                f"{type(request).__name__}"
            )
        coordinator = await self._ready()
        loop = self._loop
        assert loop is not None
        future: asyncio.Future[CoordinationResult] = loop.create_future()
        coordination_id = request.coordination_id
        if self._tracing is None:
            coordinator.coordinate(request, copy_context(), future)
        else:
            self._tracing.coordinate(coordinator, request, copy_context(), future)
        under_way = self._under_way
        if not isinstance(coordination_id, str) or coordination_id in under_way:
            return await future
        under_way[coordination_id] = (request, datetime.now(timezone.utc))
        try:
            return await future
        finally:
            del under_way[coordination_id]

    def transaction(
        self,
        *,
        coordination_id: str | None = None,
        coordination_type: CoordinationType = CoordinationType.TWO_PHASE_COMMIT,
        timeout_seconds: int | None = None,
        consistency_level: str = "strong",
        metadata: dict[str, Any] | None = None,
    ) -> Transaction:
        """Gather operations in an `async with` block, and coordinate them on leaving it."""
        if timeout_seconds is None:
            timeout_seconds = self._default_timeout
        return Transaction(
            self,
            CoordinationRequest(
                mint() if coordination_id is None else coordination_id,
                coordination_type,
                [],
                [],
                timeout_seconds,
                consistency_level,
                {} if metadata is None else metadata,
            ),
        )

    async def wait_for(
        self, coordination_id: str, timeout: float | None = None
    ) -> CoordinationResult:
        """Wait until a coordination has ended; asyncio.TimeoutError when that takes too long."""
        checked_text(coordination_id, "coordination_id")
        answer: asyncio.Future[CoordinationResult] | Any = self._ask(
            lambda coordinator, future: coordinator.wait_for(coordination_id, future)
        )
        return await asyncio.wait_for(answer, timeout)

    async def abort_coordination(self, coordination_id: str, reason: str) -> bool:
        """Abort a coordination that is not decided; whether it is aborted now."""
        checked_text(coordination_id, "coordination_id")
        checked_text(reason, "reason")
        return await self._ask(
            lambda coordinator, future: coordinator.abort(coordination_id, reason, future)
        )

    async def recover(self) -> RecoveryReport:
        """Finish what was left behind, by this process or by one that died; start does it too."""
        report: dict[str, list[str]] = await self._ask(
            lambda coordinator, future: coordinator.recover(future)
        )
        return RecoveryReport(**report)

    async def resolve(self, coordination_id: str, outcome: str, reason: str) -> CoordinationResult:
        """Decide as an operator, "commit" or "abort", with the reason kept in the journal."""
        checked_text(coordination_id, "coordination_id")
        checked_text(reason, "reason")
        if outcome not in ("commit", "abort"):
            raise InvalidRequest(f'outcome is {outcome!r}; use "commit" or "abort"')
        return await self._ask(
            lambda coordinator, future: coordinator.resolve(
                coordination_id, outcome, reason, future
            )
        )

    async def dead_letters(self) -> list[DeadLetter]:
        """List the steps whose tries are spent, and that wait for an operator."""
        rows: list[dict[str, Any]] = await self._ask(
            lambda coordinator, future: coordinator.dead_letters(future)
        )
        return [DeadLetter.from_engine(row) for row in rows]

    async def redrive(self, operation_id: str, coordination_id: str | None = None) -> bool:
        """Try a parked step again, with all its tries; False where none of that id is parked.

        `coordination_id` says which one is meant where several have an operation of that id.
        Raises InvalidRequest where it does not, or where another process drives the coordination.
        """
        checked_text(operation_id, "operation_id")
        if coordination_id is not None:
            checked_text(coordination_id, "coordination_id")
        return await self._ask(
            lambda coordinator, future: coordinator.redrive(operation_id, coordination_id, future)
        )

    # ---- looking ----------------------------------------------------------------------------

    async def get_coordination_status(self, coordination_id: str) -> CoordinationResult | None:
        """Say how a coordination stands, finished ones too; None where the id is not known."""
        checked_text(coordination_id, "coordination_id")
        return await self._ask(
            lambda coordinator, future: coordinator.status(coordination_id, future)
        )

    async def list_active_coordinations(self) -> list[str]:
        """List the ids of coordinations that this process has under way."""
        return (await self._ready()).active()

    @property
    def active_coordinations(self) -> dict[str, CoordinationContext]:
        """What this service's callers wait for; the state is that of the beginning."""
        return {
            coordination_id: CoordinationContext(
                coordination_id,
                request.coordination_type,
                request.participating_stores,
                request.operations,
                request.timeout_seconds,
                started_at,
            )
            for coordination_id, (request, started_at) in self._under_way.items()
        }

    async def history(
        self,
        *,
        state: TransactionState | str | Iterable[TransactionState | str] | None = None,
        coordination_type: CoordinationType | str | None = None,
        store: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> History:
        """List coordinations, the latest first."""
        chosen = history_filter(state, coordination_type, store, since, limit)
        rows: list[dict[str, Any]] = await self._ask(
            lambda coordinator, future: coordinator.history(chosen, future)
        )
        return History(CoordinationRecord.from_engine(row) for row in rows)

    async def describe(self, coordination_id: str) -> CoordinationRecord | None:
        """Tell everything about a coordination; None where the id is not known."""
        checked_text(coordination_id, "coordination_id")
        row: dict[str, Any] | None = await self._ask(
            lambda coordinator, future: coordinator.describe(coordination_id, future)
        )
        return None if row is None else CoordinationRecord.from_engine(row)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not started" if self._started is None else "started"
        return f"CoordinationService(stores={sorted(self.stores)}, {state})"
