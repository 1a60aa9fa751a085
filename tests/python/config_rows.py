"""One row for each setting: a service is made with it, and does what the setting says.

Not the reading of a configuration. A row is an async function of a `World`; `test_config_keys`
runs them all, and fails where a key of the schema has none. Rows that need servers are in
`config_rows_servers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ledger import Ledger, request
from unanimity import (
    ConfigError,
    CoordinationConfig,
    CoordinationService,
    EventBusError,
    InProcessEventBus,
    JournalEventBus,
    LocalLockManager,
    LockType,
    Outcome,
    PrepareRequest,
    PrepareResult,
    RaftConsensusService,
    TransactionState,
    UnanimityError,
)

PATIENCE = 30.0


class World:
    """What a row may use: a folder, servers, and services made of nested settings."""

    def __init__(self, folder: Path, server: Callable[[str], Any]) -> None:
        self.folder = folder
        self.server = server
        """Gives "postgres", "zookeeper" or "nats", started."""

    def config(self, settings: dict[str, Any]) -> CoordinationConfig:
        """Read settings as a file of them would be, without this machine's environment."""
        return CoordinationConfig.from_mapping(settings, environment={})

    def service(
        self, settings: dict[str, Any], stores: dict[str, Any] | None = None, **objects: Any
    ) -> CoordinationService:
        """Make a service, on a journal in the folder unless the settings say where."""
        given = {"journal": str(self.folder / "journal.db"), **settings}
        given = {name: value for name, value in given.items() if value is not None}
        return CoordinationService.from_config(self.config(given), stores or {}, **objects)


Row = Callable[[World], Awaitable[None]]
ROWS: dict[str, Row] = {}


def row(*keys: str) -> Callable[[Row], Row]:
    """Say which keys a row is about."""

    def put(function: Row) -> Row:
        for key in keys:
            assert key not in ROWS, key
            ROWS[key] = function
        return function

    return put


async def until(is_so: Callable[[], Any | Awaitable[Any]], what: str) -> None:
    """Wait until it is so, within a bound."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while True:
        found = is_so()
        if await found if isinstance(found, Awaitable) else found:
            return
        assert asyncio.get_running_loop().time() < end, f"it never came about that {what}"
        await asyncio.sleep(0.02)


# ---- journal, retention, recovery ------------------------------------------------------------


@row("journal")
async def _(world: World) -> None:
    place = world.folder / "here.db"
    async with world.service({"journal": str(place)}):
        assert place.exists()


@row("retention.finished_days", "retention.retention_interval_seconds")
async def _(world: World) -> None:
    settings = {"finished_days": 1e-6, "retention_interval_seconds": 0.05}
    async with world.service({"retention": settings}, {"left": Ledger("left")}) as service:
        await service.coordinate_transaction(request("old", "left"))

        async def is_gone() -> bool:
            return await service.describe("old") is None

        await until(is_gone, "it was removed")


@row("recovery.recovery_interval_seconds")
async def _(world: World) -> None:
    # A projection of nobody's: what another process left open is adopted by the timer, not by the
    # start, because the other one closes later than this one starts.
    ledger = Ledger("left")
    ledger.commit_answer = OSError("away")
    timeouts = {"commit_phase_timeout_seconds": 0.05}
    first = world.service({"timeouts": timeouts}, {"left": ledger})
    async with first:
        assert (await first.coordinate_transaction(request("t1", "left"))).success
        other = Ledger("left")
        other.staged = ledger.staged
        recovery = {"recovery_interval_seconds": 0.05}
        async with world.service({"recovery": recovery}, {"left": other}) as second:
            await first.close(timeout=0)
            await until(lambda: other.values == {"k": 1}, "the second service took it over")
            assert (await second.wait_for("t1", PATIENCE)).outcome is Outcome.COMMITTED


@row("recovery.orphan_interval_seconds")
async def _(world: World) -> None:
    class Exclusive(Ledger):
        prepared_list_is_exclusive = True

    # Prepared, and no record tells of it; while the journal is open elsewhere too, that one may be
    # about to write it.
    async with world.service({}):
        for interval, is_left in ((3_600, True), (0.05, False)):
            ledger = Exclusive("left")
            ledger.staged["unknown"] = []
            recovery = {"orphan_interval_seconds": interval, "recovery_interval_seconds": 0.05}
            async with world.service({"recovery": recovery}, {"left": ledger}) as service:
                await service.recover()
                if not is_left:
                    await until(lambda: not ledger.staged, "it was rolled back")  # noqa: B023
            assert bool(ledger.staged) == is_left


# ---- timeouts --------------------------------------------------------------------------------


@row("timeouts.default_transaction_timeout_seconds")
async def _(world: World) -> None:
    timeouts = {"default_transaction_timeout_seconds": 7}
    ledger = Ledger("left")
    async with world.service({"timeouts": timeouts}, {"left": ledger}) as service:
        async with service.transaction() as tx:
            tx.add("left", "put", key="k", value=1)
        record = await service.describe(tx.coordination_id)
        assert record is not None and record.timeout_seconds == 7


@row("timeouts.prepare_phase_timeout_seconds")
async def _(world: World) -> None:
    ledger = Ledger("left")
    ledger.gate = asyncio.Event()
    timeouts = {"prepare_phase_timeout_seconds": 0.1}
    async with world.service({"timeouts": timeouts}, {"left": ledger}) as service:
        asked = request("t1", "left", timeout_seconds=3_600)
        result = await asyncio.wait_for(service.coordinate_transaction(asked), PATIENCE)
        assert result.outcome is Outcome.ABORTED
        ledger.gate.set()


@row("timeouts.commit_phase_timeout_seconds")
async def _(world: World) -> None:
    ledger = Ledger("left")
    ledger.commit_answer = OSError("away")
    timeouts = {"commit_phase_timeout_seconds": 0.1}
    async with world.service({"timeouts": timeouts}, {"left": ledger}) as service:
        asked = request("t1", "left", timeout_seconds=3_600)
        result = await asyncio.wait_for(service.coordinate_transaction(asked), PATIENCE)
        assert result.success and result.final_state is TransactionState.COMMITTING
        ledger.commit_answer = None
        await service.wait_for("t1", PATIENCE)


async def _second_waits_for_locks(world: World, settings: dict[str, Any]) -> None:
    """One holds the locks and hangs; the second one gives up long before its own timeout."""
    ledger = Ledger("left")
    ledger.gate = asyncio.Event()
    strong = {"consistency_level": "strong", "timeout_seconds": 3_600}
    settings = {
        **settings,
        "timeouts": {**settings["timeouts"], "prepare_phase_timeout_seconds": 3_600},
    }
    async with world.service(settings, {"left": ledger}) as service:
        first = asyncio.create_task(service.coordinate_transaction(request("t1", "left", **strong)))
        await until(lambda: ledger.calls, "the first one has its locks")
        second = service.coordinate_transaction(request("t2", "left", **strong))
        result = await asyncio.wait_for(second, PATIENCE)
        assert (result.outcome, result.code) == (
            Outcome.ABORTED,
            "transaction.aborted.lock_timeout",
        )
        ledger.gate.set()
        assert (await first).success


@row("timeouts.lock_acquisition_timeout_seconds")
async def _(world: World) -> None:
    await _second_waits_for_locks(world, {"timeouts": {"lock_acquisition_timeout_seconds": 0.1}})


# ---- performance -----------------------------------------------------------------------------


class Busy:
    """A store of plain functions that counts how many of them run at once."""

    store_name = "busy"

    def __init__(self, wanted: int) -> None:
        self.most = 0
        self._running = 0
        self._wanted = wanted
        self._changed = threading.Condition()

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        with self._changed:
            self._running += 1
            self.most = max(self.most, self._running)
            self._changed.notify_all()
            # Until as many are inside as are wanted, or it is clear that they never will be.
            self._changed.wait_for(lambda: self.most >= self._wanted, timeout=0.2)
            self._running -= 1
        return PrepareResult(self.store_name, "READ_ONLY")

    def commit_transaction(self, transaction_id: str) -> Any:
        raise AssertionError("a reader has nothing to commit")

    abort_transaction = commit_transaction

    def list_prepared_transactions(self) -> list[str]:
        return []


@row("performance.coordination_worker_threads")
async def _(world: World) -> None:
    def run(threads: int, wanted: int) -> int:
        store = Busy(wanted)

        async def ask() -> None:
            settings = {
                "journal": "memory:",
                "performance": {"coordination_worker_threads": threads},
            }
            async with world.service(settings, {"busy": store}) as service:
                asked = [request(f"t{number}", "busy") for number in range(6)]
                await asyncio.gather(*map(service.coordinate_transaction, asked))

        # Threads belong to a loop, so each number has one of its own.
        asyncio.run(ask())
        return store.most

    assert await asyncio.to_thread(run, 1, 2) == 1
    assert await asyncio.to_thread(run, 3, 4) == 3


@row("performance.max_concurrent_coordinations", "performance.max_queued_coordinations")
async def _(world: World) -> None:
    ledger = Ledger("left")
    ledger.gate = asyncio.Event()
    performance = {"max_concurrent_coordinations": 2, "max_queued_coordinations": 1}
    async with world.service({"performance": performance}, {"left": ledger}) as service:
        asked = [request(f"t{number}", "left") for number in range(3)]
        tasks = [asyncio.create_task(service.coordinate_transaction(each)) for each in asked]
        await until(lambda: ledger.asked("prepare") == 2, "two of them run")
        refused = await service.coordinate_transaction(request("t4", "left"))
        assert (refused.outcome, refused.code) == (Outcome.REFUSED, "request.overloaded")
        assert ledger.asked("prepare") == 2
        ledger.gate.set()
        assert all([(await task).success for task in tasks])


# ---- locks of this process -------------------------------------------------------------------


@row("lock_manager.deadlock_detection.enabled")
async def _(world: World) -> None:
    async def cross(manager: Any) -> list[Any]:
        """Two that each hold what the other wants."""
        for name in "ab":
            await manager.acquire_lock(name, LockType.EXCLUSIVE, f"has {name}")
        wants = [("b", "has a"), ("a", "has b")]
        return await asyncio.gather(
            *(manager.acquire_lock(what, LockType.EXCLUSIVE, who, 0.2) for what, who in wants)
        )

    settings = {"lock_manager": {"deadlock_detection": {"enabled": False}}}
    service = world.service(settings)
    assert isinstance(service.lock_manager, LocalLockManager)
    async with service:
        found = await cross(service.lock_manager)
        assert [each.deadlock_cycle for each in found] == [None, None]
    async with LocalLockManager() as manager:
        assert any(each.deadlock_cycle for each in await cross(manager))


@row("lock_manager.deadlock_detection.max_wait_time_seconds")
async def _(world: World) -> None:
    bound = {"max_wait_time_seconds": 0.1}
    settings = {"lock_manager": {"deadlock_detection": bound}, "timeouts": {}}
    await _second_waits_for_locks(world, settings)
    off = {"lock_manager": {"deadlock_detection": {**bound, "enabled": False}}}
    async with world.service(off) as service:
        manager: Any = service.lock_manager
        await manager.acquire_lock("a", LockType.EXCLUSIVE, "first")
        second = manager.acquire_lock("a", LockType.EXCLUSIVE, "second", 3_600)
        assert not (await asyncio.wait_for(second, PATIENCE)).acquired


# ---- events, metrics -------------------------------------------------------------------------


@row("event_bus.backend")
async def _(world: World) -> None:
    kinds = {"none": type(None), "in_process": InProcessEventBus, "journal": JournalEventBus}
    for backend, kind in kinds.items():
        heard: list[dict[str, Any]] = []
        settings = {
            "event_bus": {"backend": backend},
            "journal": str(world.folder / f"{backend}.db"),
        }
        async with world.service(settings, {"left": Ledger("left")}) as service:
            assert type(service.event_bus) is kind
            if service.event_bus is not None:
                await service.event_bus.subscribe("COORDINATION_COMPLETED", heard.append)
                await service.coordinate_transaction(request("t1", "left"))
                await until(lambda: heard, f"the bus {backend} carried the event")  # noqa: B023


@row("event_bus.queue_size")
async def _(world: World) -> None:
    settings = {"event_bus": {"backend": "in_process", "queue_size": 2}}
    async with world.service(settings) as service:
        bus: Any = service.event_bus
        gate = asyncio.Event()

        async def hang(_: object) -> None:
            await gate.wait()

        await bus.subscribe("x", hang, max_in_flight=1)
        with pytest.raises(EventBusError):
            for number in range(8):
                await bus.publish_event({"type": "x", "number": number})
        gate.set()


class Counter:
    """A user's collector."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def increment_counter(self, name: str, value: float = 1, labels: Any = None) -> None:
        self.names.append(name)

    record_histogram = increment_counter


@row("monitoring.metrics_enabled")
async def _(world: World) -> None:
    for is_enabled in (True, False):
        counter = Counter()
        settings = {"monitoring": {"metrics_enabled": is_enabled}, "journal": "memory:"}
        stores = {"left": Ledger("left")}
        async with world.service(settings, stores, metrics_collector=counter) as service:
            await service.coordinate_transaction(request("t1", "left"))
            if is_enabled:
                await until(lambda: counter.names, "it was told")  # noqa: B023
        assert bool(counter.names) == is_enabled


# ---- the cluster -----------------------------------------------------------------------------


@row("monitoring.distributed_tracing_enabled", "monitoring.trace_sampling_rate")
async def _(world: World) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def spans(enabled: bool, rate: float) -> int:
        exporter.clear()
        tracing = {"distributed_tracing_enabled": enabled, "trace_sampling_rate": rate}
        given = {"journal": "memory:", "monitoring": tracing}
        async with world.service(given, {"left": Ledger("left")}) as service:
            assert (await service.coordinate_transaction(request("t1", "left"))).success
        return len(exporter.get_finished_spans())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", provider)
        assert await spans(True, 1.0) > 3
        assert await spans(True, 0.0) == 0
        assert await spans(False, 1.0) == 0


def alone(world: World, **more: Any) -> dict[str, Any]:
    """A cluster of one node, on a free port of loopback."""
    from raft_cluster import free_ports

    (port,) = free_ports(1)
    consensus = {
        "cluster_nodes": [f"a=127.0.0.1:{port}"],
        "election_timeout_ms": 200,
        "heartbeat_interval_ms": 40,
        **more.pop("consensus", {}),
    }
    return {"node_id": "a", "consensus": consensus, "journal": None, **more}


@row("consensus.algorithm", "consensus.cluster_nodes", "node_id")
async def _(world: World) -> None:
    settings = alone(world)
    async with world.service(settings, {"left": Ledger("left")}) as service:
        raft = service.consensus
        assert isinstance(raft, RaftConsensusService)
        assert (await service.coordinate_transaction(request("t1", "left"))).success
        assert (raft.state, raft.node_id) == ("leader", "a")
        assert raft.cluster_nodes == settings["consensus"]["cluster_nodes"]
    # The service made it, and has closed it.
    assert raft.state == "shutdown"
    with pytest.raises(ConfigError, match="node_id"):
        world.service({**settings, "node_id": None})
    local = {**settings, "consensus": {**settings["consensus"], "algorithm": "local"}}
    assert world.service(local).consensus is None


@row("consensus.election_timeout_ms", "consensus.heartbeat_interval_ms")
async def _(world: World) -> None:
    times = {"election_timeout_ms": 700, "heartbeat_interval_ms": 90}
    raft: Any = world.service(alone(world, consensus=times)).consensus
    assert (raft.election_timeout_ms, raft.heartbeat_interval_ms) == (700, 90)


@row("consensus.log_compaction_threshold", "data_dir")
async def _(world: World) -> None:
    folder = world.folder / "node"
    settings = alone(world, data_dir=str(folder), consensus={"log_compaction_threshold": 10})
    async with world.service(settings) as service:
        raft: Any = service.consensus
        for number in range(30):
            assert await raft.propose_coordination_decision(f"t{number}", "COMMIT", {})
        assert (folder / "node.json").exists()
        snapshots = folder / "snapshots"
        await until(lambda: snapshots.is_dir() and any(snapshots.iterdir()), "a snapshot was made")


@row("cluster")
async def _(world: World) -> None:
    settings = alone(world, data_dir=str(world.folder / "node"), cluster="one")
    async with world.service(settings):
        pass
    with pytest.raises(UnanimityError, match="one"):
        await world.service({**settings, "cluster": "two"}).start()


@row("listen")
async def _(world: World) -> None:
    from raft_cluster import free_ports

    (port,) = free_ports(1)
    async with world.service(alone(world, listen=f"127.0.0.1:{port}")):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@row("secret", "insecure")
async def _(world: World) -> None:
    from raft_cluster import free_ports

    (port,) = free_ports(1)
    beyond = {
        "node_id": "a",
        "consensus": {"cluster_nodes": ["a=192.0.2.1:7000"]},
        "listen": f"127.0.0.1:{port}",
        "journal": None,
    }
    with pytest.raises(UnanimityError, match="insecure"):
        await world.service(beyond).start()
    for enough in ({"secret": "0123456789abcdef"}, {"insecure": True}):
        raft: Any = world.service({**beyond, **enough}).consensus
        async with raft:
            assert raft.state != "shutdown"


@row("tls.certificate", "tls.key", "tls.authority")
async def _(world: World) -> None:
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("a")
    paths = {name: str(world.folder / name) for name in ("certificate", "key", "authority")}
    issued.cert_chain_pems[0].write_to_path(paths["certificate"])
    issued.private_key_pem.write_to_path(paths["key"])
    authority.cert_pem.write_to_path(paths["authority"])
    async with world.service(alone(world, tls=paths)) as service:
        assert service.consensus is not None
    for name in paths:
        missing = {**paths, name: str(world.folder / "nowhere")}
        with pytest.raises(UnanimityError, match="nowhere"):
            await world.service(alone(world, tls=missing)).start()
