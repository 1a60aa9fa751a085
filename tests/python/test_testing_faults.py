"""`faults` and `memory_service`: named faults strike where they are told, and nowhere else."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from broken_stores import HonestStore
from ledger import Ledger, request
from unanimity import (
    ConfigError,
    CoordinationService,
    Outcome,
    Participant,
    PrepareRequest,
    TransactionState,
)
from unanimity.stores import MemoryStore
from unanimity.testing import FaultInjected, faults, memory_service


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def two() -> tuple[CoordinationService, dict[str, Ledger]]:
    ledgers = {"left": Ledger("left"), "right": Ledger("right")}
    return memory_service(ledgers), ledgers


# --- a service in memory -----------------------------------------------------------------------


def test_a_memory_service_coordinates_and_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def work() -> None:
        async with memory_service() as service:
            async with service.transaction() as tx:
                tx.add("left", "put", key="k", value=1)
                tx.add("right", "put", key="k", value=2)
            assert await service.stores["left"].get("k") == 1
            assert await service.stores["right"].get("k") == 2

    run(work())
    assert list(tmp_path.iterdir()) == []


def test_its_timeouts_are_short_and_can_be_set() -> None:
    async def work() -> None:
        ledgers = {"left": Ledger("left"), "right": Ledger("right")}
        ledgers["left"].gate = asyncio.Event()
        timeouts = {"prepare_phase_timeout_seconds": 0.05}
        async with memory_service(ledgers, timeouts=timeouts) as service:
            result = await service.coordinate_transaction(request("t"))
            assert result.outcome is Outcome.ABORTED
            assert "left" in str(result.error_message)

    run(work())


# --- faults ------------------------------------------------------------------------------------


def test_a_lost_vote_aborts_and_what_was_prepared_is_undone() -> None:
    async def work() -> None:
        service, ledgers = two()
        with faults(service) as inject:
            inject.drop_answer("prepare:right")
            async with service:
                result = await service.coordinate_transaction(request("t"))
                assert result.outcome is Outcome.ABORTED
                assert "the answer to prepare:right was lost" in str(result.error_message)
                assert ledgers["right"].asked("prepare") == 1
                await service.wait_for("t")
                assert all(ledger.staged == {} for ledger in ledgers.values())
                assert (await service.coordinate_transaction(request("u"))).success

    run(work())


def test_a_lost_commit_is_asked_again_until_it_comes_through() -> None:
    async def work() -> None:
        service, ledgers = two()
        with faults(service) as inject:
            inject.drop("commit:right", times=2)
            async with service:
                assert (await service.coordinate_transaction(request("t"))).success
                await service.wait_for("t")
            assert inject.passed.count("commit:right") == 3
            assert ledgers["right"].asked("commit") == 1
            assert ledgers["right"].values == {"k": 1}

    run(work())


def test_a_question_is_doubled_and_only_the_time_that_was_named() -> None:
    async def work() -> None:
        service, ledgers = two()
        with faults(service) as inject:
            inject.duplicate("commit:left", nth=2)
            async with service:
                for name in ("t", "u", "v"):
                    assert (await service.coordinate_transaction(request(name))).success
        asked = [name for what, name in ledgers["left"].calls if what == "commit"]
        assert sorted(asked) == ["t", "u", "u", "v"]

    run(work())


def test_a_store_refuses_without_having_been_asked() -> None:
    async def work() -> None:
        service, ledgers = two()
        with faults(service) as inject:
            inject.fail("prepare:left", "the till is closed")
            async with service:
                result = await service.coordinate_transaction(request("t"))
                assert "the till is closed" in str(result.error_message)
                assert ledgers["left"].asked("prepare") == 0
                inject.fail("commit:right")
                result = await service.coordinate_transaction(request("u"))
                assert result.outcome is Outcome.HEURISTIC

    run(work())


def test_who_is_held_waits_and_the_others_do_not() -> None:
    async def work() -> None:
        service, _ = two()
        with faults(service) as inject:
            held = inject.hold("commit:right")
            async with service:
                asked = asyncio.ensure_future(service.coordinate_transaction(request("t")))
                await held.reached()
                status = await service.get_coordination_status("t")
                assert status is not None
                assert status.final_state is TransactionState.COMMITTING
                held.release()
                assert (await asked).success

    run(work())


def test_a_delay_is_a_delay() -> None:
    async def work() -> None:
        ledgers = {"left": Ledger("left"), "right": Ledger("right")}
        timeouts = {"prepare_phase_timeout_seconds": 0.05}
        service = memory_service(ledgers, timeouts=timeouts)
        with faults(service) as inject:
            inject.delay("prepare:left", 30)
            async with service:
                result = await service.coordinate_transaction(request("t"))
                assert result.outcome is Outcome.ABORTED
                assert inject.unreached == []

    run(work())


def test_steps_have_points_of_their_own() -> None:
    async def work() -> None:
        bank = Participant("bank")
        charged: list[int] = []

        @bank.operation("charge")
        def charge(request: Any) -> None:
            charged.append(request.attempt)

        charge.compensation(lambda request: None)
        service = memory_service({"bank": bank})
        with faults(service) as inject:
            inject.drop_answer("execute:bank:charge")
            inject.drop("execute:bank:refund")
            async with service:
                operation = {"store": "bank", "type": "charge"}
                kind = request("x").coordination_type.SAGA_ORCHESTRATION
                asked = request("t", "bank", operations=[operation], coordination_type=kind)
                assert (await service.coordinate_transaction(asked)).success
            assert charged == [1, 2]
            assert inject.unreached == ["drop execute:bank:refund"]

    run(work())


def test_one_store_or_several_are_wrapped_without_a_service() -> None:
    async def work() -> None:
        with faults(MemoryStore("cash")) as inject:
            inject.drop("list:cash")
            with pytest.raises(FaultInjected, match="list:cash was lost"):
                await inject.store.list_prepared_transactions()
            assert await inject.store.list_prepared_transactions() == []
            assert not hasattr(inject.store, "execute_operation")
        with faults({"a": Ledger("a"), "b": Ledger("b")}) as inject:
            inject.fail("prepare:b", RuntimeError("no"), times=None)
            ask = PrepareRequest("t", [], 1)
            assert (await inject.stores["a"].prepare_transaction(ask)).vote == "COMMIT"
            for _ in range(2):
                with pytest.raises(RuntimeError, match="no"):
                    await inject.stores["b"].prepare_transaction(ask)
        # Behind the block nothing goes wrong.
        assert (await inject.stores["b"].prepare_transaction(ask)).vote == "COMMIT"

    run(work())


def test_a_plain_store_is_asked_in_a_thread(tmp_path: Path) -> None:
    async def work() -> None:
        service = memory_service({"honest": HonestStore(str(tmp_path / "s"))})
        with faults(service) as inject:
            async with service:
                assert (await service.coordinate_transaction(request("t", "honest"))).success
            assert inject.passed == ["list:honest", "prepare:honest", "commit:honest"]

    run(work())


# --- what is refused ---------------------------------------------------------------------------


def test_a_point_that_cannot_be_is_refused() -> None:
    with faults({"left": Ledger("left")}) as inject:
        for point in ("commit:middle", "jump:left", "commit", ""):
            with pytest.raises(ConfigError, match="is no point; give <question>:<store>"):
                inject.drop(point)
        with pytest.raises(ConfigError, match="count from 1"):
            inject.drop("commit:left", nth=0)
        with pytest.raises(ConfigError, match="would kill this very process"):
            inject.crash_before("commit:left")


def test_a_service_that_has_started_is_refused() -> None:
    async def work() -> None:
        service, _ = two()
        async with service:
            with pytest.raises(ConfigError, match="before its first use"), faults(service):
                pass

    run(work())


CRASH = """
import asyncio, sys
from broken_stores import HonestStore
from unanimity import PrepareRequest
from unanimity.testing import faults

async def work(path, when):
    with faults(HonestStore(path), may_kill=True) as inject:
        getattr(inject, f"crash_{when}")("prepare:honest")
        await inject.store.prepare_transaction(PrepareRequest("t", [], 1))

asyncio.run(work(*sys.argv[1:]))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_is_a_real_one(tmp_path: Path, when: str) -> None:
    path = tmp_path / "store.json"
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(path), when], cwd=Path(__file__).parent, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert HonestStore(str(path)).list_prepared_transactions() == (["t"] if when == "after" else [])
