"""What a service shows of itself: locks, waits, latencies, an overview, a live look."""

from __future__ import annotations

import asyncio
import itertools
import sys
import types
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any

import pytest

from ledger import Ledger
from unanimity import (
    CoordinationRecord,
    CoordinationService,
    IDistributedLockManager,
    InvalidRequest,
    LocalLockManager,
    LockAcquisitionResult,
    LockInfo,
    LockTable,
    LockType,
    Overview,
    WaitGraph,
)
from unanimity.stores import MemoryStore

Make = Callable[..., CoordinationService]


async def put(service: CoordinationService, id: str, value: int = 1) -> None:
    async with service.transaction(coordination_id=id) as tx:
        tx.add("left", "put", key="k", value=value)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """There is no signal for what a lock manager has queued, or a notebook shown."""

    async def poll() -> None:
        while not await condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 30)


class Gate(Ledger):
    """A store whose commit waits until it is let through."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.begun, self.let_through = asyncio.Event(), asyncio.Event()

    async def commit_transaction(self, transaction_id: str) -> Any:
        self.begun.set()
        await self.let_through.wait()
        return await super().commit_transaction(transaction_id)


# ---- locks ------------------------------------------------------------------------------------


def test_a_service_without_a_lock_manager_shows_the_locks_it_takes(make_service: Make) -> None:
    async def scenario() -> None:
        gate = Gate("left")
        async with make_service({"left": gate}) as service:
            assert service.lock_manager is None
            assert await service.locks() == []
            running = asyncio.ensure_future(put(service, "one"))
            await gate.begun.wait()
            waiting = asyncio.ensure_future(put(service, "two"))

            async def queued() -> bool:
                return any(info.state == "waiting" for info in await service.locks())

            await until(queued)
            locks = await service.locks()
            assert isinstance(locks, LockTable)
            held = {(i.resource_id, i.lock_type, i.requester_id) for i in locks if i.position == 0}
            assert ("left/k", LockType.EXCLUSIVE, "one") in held
            assert await service.locks("left/k") == [i for i in locks if i.resource_id == "left/k"]
            graph = await service.locks_graph()
            assert isinstance(graph, WaitGraph)
            assert (graph, graph.wants) == ({"two": ["one"]}, {"two": ["exclusive on left/k"]})
            assert graph.circles() == []
            assert "exclusive on left/k" in graph.to_svg()
            gate.let_through.set()
            await asyncio.gather(running, waiting)
            assert await service.locks() == []
            assert str(await service.locks_graph()) == "nobody waits"

    asyncio.run(scenario())


def test_a_circle_is_marked_in_every_form(make_service: Make) -> None:
    async def scenario() -> None:
        locks = LocalLockManager()
        locks.detects_deadlocks = False
        async with (
            make_service({"left": MemoryStore("left")}, lock_manager=locks) as service,
            locks,
        ):
            for name, resource in (("ann", "a"), ("bob", "b")):
                await locks.acquire_lock(resource, "exclusive", name)
            waits = [
                asyncio.ensure_future(locks.acquire_lock(resource, "exclusive", name))
                for name, resource in (("ann", "b"), ("bob", "a"))
            ]

            async def both() -> bool:
                return len(await service.locks_graph()) == 2

            await until(both)
            graph = await service.locks_graph()
            assert graph.circles() == [["ann", "bob"]]
            assert "deadlock: ann -> bob -> ann" in str(graph)
            assert "ann -&gt; bob -&gt; ann" in graph.to_html()
            assert graph.to_svg().count('class="node bad"') == 2
            assert graph.to_dict()["deadlocks"] == [["ann", "bob"]]
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    asyncio.run(scenario())


class Bare(IDistributedLockManager):
    """A user's own manager, with what the interface asks for and no more."""

    async def acquire_lock(
        self, resource_id: str, lock_type: LockType, requester_id: str, timeout_seconds: int = 300
    ) -> LockAcquisitionResult:
        return LockAcquisitionResult.success("1", datetime.now(timezone.utc))

    async def release_lock(self, lock_id: str, requester_id: str) -> bool:
        return True

    async def check_lock_status(self, resource_id: str) -> list[LockInfo]:
        now = datetime.now(timezone.utc)
        return [LockInfo(resource_id, LockType.SHARED, "me", "held", "1", 0, now, None, None)]


def test_a_users_own_manager_is_asked_for_what_it_has(make_service: Make) -> None:
    async def scenario() -> None:
        async with make_service({"left": MemoryStore("left")}, lock_manager=Bare()) as service:
            assert [info.requester_id for info in await service.locks("r")] == ["me"]
            with pytest.raises(InvalidRequest, match=r"Bare has no list_locks\(\).*resource_id"):
                await service.locks()
            with pytest.raises(InvalidRequest, match=r"Bare has no wait_for_graph\(\)"):
                await service.locks_graph()

    asyncio.run(scenario())


# ---- latency and overview ---------------------------------------------------------------------


def test_latency_is_of_what_ended_by_type_and_state(make_service: Make) -> None:
    async def scenario() -> None:
        async with make_service({"left": MemoryStore("left")}) as service:
            assert len(await service.latency()) == 0
            for number in range(5):
                await put(service, f"t{number}")
            tx = service.transaction()
            with pytest.raises(Exception, match="check failed"):
                async with tx:
                    tx.add("left", "check", key="k", value=99)
            latency = await service.latency()
            assert [(r.state.value, r.count) for r in latency] == [("committed", 5), ("aborted", 1)]
            assert latency.coordinations == 6
            for one in latency:
                assert one.p50 <= one.p90 <= one.p99 <= one.max
            assert (await service.latency(limit=2)).coordinations == 2
            assert (await service.latency(store="right")).coordinations == 0
            for limit in (0, 10_001):
                with pytest.raises(InvalidRequest, match=f"limit is {limit}"):
                    await service.latency(limit=limit)

    asyncio.run(scenario())


def test_an_overview_counts_what_stands_where(make_service: Make) -> None:
    async def scenario() -> None:
        gate = Gate("left")
        async with make_service({"left": gate}) as service:
            running = asyncio.ensure_future(put(service, "one"))
            await gate.begun.wait()
            overview = await service.overview()
            assert overview.active == ["one"]
            gate.let_through.set()
            await running
            overview = await service.overview()
            assert (overview.states, overview.active) == ({"committed": 1}, [])
            assert [record.coordination_id for record in overview.latest] == ["one"]
            assert overview.to_dict()["states"] == {"committed": 1}
            assert repr(overview) == "Overview(0 coordinations under way; 1 committed)"

    asyncio.run(scenario())


# ---- watch ------------------------------------------------------------------------------------


class Handle:
    """A notebook's output, and everything that was ever shown in it."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def display(self, look: Any, display_id: bool) -> Handle:
        assert display_id is True
        self.shown.append(look)
        return self

    def update(self, look: Any) -> None:
        self.shown.append(look)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """As if this ran in one: with a shell that has a kernel."""
    handle = Handle()
    shell, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    shell.get_ipython = lambda: types.SimpleNamespace(kernel=True)  # type: ignore[attr-defined]
    display.display = handle.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return handle


def test_in_a_notebook_one_output_changes_until_it_is_over(
    make_service: Make, notebook: Handle
) -> None:
    async def scenario() -> None:
        gate = Gate("left")
        async with make_service({"left": gate}) as service:
            running = asyncio.ensure_future(put(service, "one"))
            await gate.begun.wait()
            watching = asyncio.ensure_future(service.watch("one", interval_seconds=0.01))

            async def seen() -> bool:
                return bool(notebook.shown)

            await until(seen)
            gate.let_through.set()
            await running
            last = await watching
            assert isinstance(last, CoordinationRecord)
            assert (last.state.value, notebook.shown[-1]) == ("committed", last)
            assert notebook.shown[0].completed_at is None
            html = [look.to_html() for look in notebook.shown]
            assert all(one != other for one, other in itertools.pairwise(html))

    asyncio.run(scenario())


def test_elsewhere_the_first_look_and_the_last_are_printed(
    make_service: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        async with make_service({"left": MemoryStore("left")}) as service:
            await put(service, "one")
            assert await service.watch("one") is not None
            printed = capsys.readouterr().out
            assert printed.count("coordination  one") == 1
            assert await service.watch("nobody") is None
            overview = await service.watch(timeout=0.05, interval_seconds=0.01)
            assert isinstance(overview, Overview)
            assert capsys.readouterr().out.count("under way here") == 1

    asyncio.run(scenario())


def test_who_cancels_a_watch_gets_his_cancellation_and_the_last_look_stays(
    make_service: Make, notebook: Handle
) -> None:
    async def scenario() -> None:
        async with make_service({"left": MemoryStore("left")}) as service:
            watching = asyncio.ensure_future(service.watch(interval_seconds=0.01))

            async def seen() -> bool:
                return bool(notebook.shown)

            await until(seen)
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching
            await put(service, "one")
            assert await service.get_coordination_status("one") is not None

    asyncio.run(scenario())


def test_a_strange_interval_is_refused(make_service: Make) -> None:
    async def scenario() -> None:
        async with make_service({"left": MemoryStore("left")}) as service:
            for strange in (0, -1, float("nan"), 1e9):
                with pytest.raises(InvalidRequest, match="interval_seconds is"):
                    await service.watch("one", interval_seconds=strange)

    asyncio.run(scenario())
