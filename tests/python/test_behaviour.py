"""What happens when things go wrong around a coordination, row by row.

behaviour.md is the same table for users, and names these tests; `test_the_page_names_tests`
holds the two together. Rows about kills and restarts are in the tests that the page names.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from crash.until import until
from ledger import Ledger, request
from unanimity import CoordinationService, JournalError, Outcome, TransactionState
from unanimity.stores import FileStore, MemoryStore

Make = Callable[..., CoordinationService]
Ledgers = dict[str, Ledger]
HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "behaviour.md"


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of `crash/scripts` in a process of its own."""
    command = [sys.executable, "-W", "error", str(HERE / "crash" / "scripts" / name)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)


# ---- the caller stops waiting ---------------------------------------------------------------


def test_a_cancelled_task_stops_waiting_and_the_coordination_goes_on(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        gate = ledgers["left"].gate = asyncio.Event()
        async with make_service(ledgers) as service:
            task = asyncio.create_task(service.coordinate_transaction(request("t1")))
            await until(lambda: bool(ledgers["left"].calls))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await service.list_active_coordinations() == ["t1"]
            assert service.active_coordinations == {}
            gate.set()
            assert (await service.wait_for("t1", timeout=10)).outcome is Outcome.COMMITTED

    asyncio.run(scenario())
    assert ledgers["left"].values == ledgers["right"].values == {"k": 1}


def test_wait_for_stops_waiting_and_the_coordination_goes_on(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        gate = ledgers["left"].gate = asyncio.Event()
        async with make_service(ledgers) as service:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(service.coordinate_transaction(request("t1")), 0.1)
            with pytest.raises(asyncio.TimeoutError):
                await service.wait_for("t1", timeout=0.1)
            gate.set()
            assert (await service.wait_for("t1", timeout=10)).outcome is Outcome.COMMITTED

    asyncio.run(scenario())


# ---- the request's own time ------------------------------------------------------------------


def test_five_silent_stores_cost_one_timeout_and_end_in_an_abort(make_service: Make) -> None:
    stores = {f"s{number}": Ledger(f"s{number}") for number in range(5)}
    asked_in_order: list[tuple[str, str]] = []

    async def scenario() -> None:
        for store in stores.values():
            store.gate = asyncio.Event()
            store.calls = asked_in_order
        async with make_service(stores) as service:
            asked = request("t1", *stores, timeout_seconds=0.5)
            result = await service.coordinate_transaction(asked)
            # One timeout for all: nobody waits for one store before he asks the next.
            assert [kind for kind, _ in asked_in_order[:5]] == ["prepare"] * 5
            record = await service.describe("t1")
            assert record is not None
            times = [store.prepare_asked_at for store in record.stores if store.prepare_asked_at]
            assert len(times) == 5 and max(times) - min(times) < timedelta(seconds=0.5)
            assert (result.outcome, result.success) == (Outcome.ABORTED, False)
            # The time of the call and that of the phase end together: whichever is told first.
            message = str(result.error_message)
            assert "timed out" in message or "no answer within" in message
            named = [name for name in stores if f"'{name}'" in message]
            assert named == list(stores) if "timed out" in message else named
            for store in stores.values():
                assert store.gate is not None
                store.gate.set()
            ended = await service.wait_for("t1", timeout=20)
            assert ended.final_state is TransactionState.ABORTED
            await until(lambda: not any(store.staged for store in stores.values()))

    asyncio.run(scenario())
    assert all(store.values == {} and store.asked("commit") == 0 for store in stores.values())


def test_a_timeout_after_the_decision_is_a_commit_that_goes_on(
    make_service: Make, ledgers: Ledgers
) -> None:
    ledgers["right"].commit_answer = OSError("away")

    async def scenario() -> None:
        async with make_service(ledgers) as service:
            loop = asyncio.get_running_loop()
            began = loop.time()
            result = await service.coordinate_transaction(request("t1", timeout_seconds=0.5))
            assert loop.time() - began < 2
            assert (result.success, result.final_state) == (True, TransactionState.COMMITTING)
            ledgers["right"].commit_answer = None
            ended = await service.wait_for("t1", timeout=20)
            assert ended.final_state is TransactionState.COMMITTED

    asyncio.run(scenario())
    assert ledgers["right"].values == {"k": 1}


# ---- an explicit abort -----------------------------------------------------------------------


def test_an_abort_before_the_decision_wins(make_service: Make, ledgers: Ledgers) -> None:
    async def scenario() -> None:
        gate = ledgers["left"].gate = asyncio.Event()
        async with make_service(ledgers) as service:
            waiting = asyncio.create_task(service.coordinate_transaction(request("t1")))
            await until(lambda: bool(ledgers["right"].staged))
            began = asyncio.get_running_loop().time()
            assert await service.abort_coordination("t1", "changed my mind") is True
            aborted = await waiting
            assert (aborted.outcome, aborted.success) == (Outcome.ABORTED, False)
            assert "changed my mind" in str(aborted.error_message)
            # The store on the left has not even voted: nobody waits for it.
            assert asyncio.get_running_loop().time() - began < 5
            gate.set()
            ended = await service.wait_for("t1", timeout=10)
            assert ended.final_state is TransactionState.ABORTED
            assert await service.abort_coordination("t1", "again") in (True, False)

    asyncio.run(scenario())
    assert ledgers["right"].staged == ledgers["right"].values == {}


def test_an_abort_after_the_decision_changes_nothing(make_service: Make, ledgers: Ledgers) -> None:
    ledgers["right"].commit_answer = OSError("away")

    async def scenario() -> None:
        config = {"timeouts": {"commit_phase_timeout_seconds": 0.2}}
        async with make_service(ledgers, config=config) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert result.final_state is TransactionState.COMMITTING
            assert await service.abort_coordination("t1", "too late") is False
            ledgers["right"].commit_answer = None
            assert (await service.wait_for("t1", timeout=20)).outcome is Outcome.COMMITTED
            assert await service.abort_coordination("t1", "much too late") is False

    asyncio.run(scenario())


# ---- many at once ----------------------------------------------------------------------------


def test_more_than_the_limit_wait_their_turn(make_service: Make, ledgers: Ledgers) -> None:
    running = [0, 0]

    class Counting(Ledger):
        async def prepare_transaction(self, request: Any) -> Any:
            running[0] += 1
            running[1] = max(running)
            await asyncio.sleep(0)
            try:
                return await super().prepare_transaction(request)
            finally:
                running[0] -= 1

    async def scenario() -> None:
        config = {"performance": {"max_concurrent_coordinations": 3}}
        async with make_service({"left": Counting("left")}, config=config) as service:
            asked = [request(f"t{number}", "left") for number in range(40)]
            results = await asyncio.gather(*map(service.coordinate_transaction, asked))
            assert all(result.success for result in results)

    asyncio.run(scenario())
    assert 1 <= running[1] <= 3


def test_one_that_waits_too_long_for_its_turn_is_aborted_before_any_store_is_asked(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        gate = ledgers["left"].gate = asyncio.Event()
        config = {"performance": {"max_concurrent_coordinations": 1}}
        async with make_service(ledgers, config=config) as service:
            first = asyncio.create_task(service.coordinate_transaction(request("t1")))
            await until(lambda: bool(ledgers["left"].calls))
            second = await service.coordinate_transaction(request("t2", timeout_seconds=0.2))
            assert (second.outcome, second.code) == (Outcome.ABORTED, "transaction.aborted.queue")
            third = asyncio.create_task(service.coordinate_transaction(request("t3")))
            await until(lambda: "t3" in service.active_coordinations)
            assert await service.abort_coordination("t3", "not needed") is True
            assert (await third).outcome is Outcome.ABORTED
            gate.set()
            assert (await first).outcome is Outcome.COMMITTED

    asyncio.run(scenario())
    assert {name for _, name in ledgers["left"].calls} == {"t1"}


def test_a_full_queue_refuses_and_has_room_again(make_service: Make, ledgers: Ledgers) -> None:
    async def scenario() -> None:
        gate = ledgers["left"].gate = asyncio.Event()
        config = {"performance": {"max_concurrent_coordinations": 1}}
        stores = {"left": ledgers["left"]}
        async with make_service(stores, config=config, journal="memory:") as service:
            asked = [request(f"t{number}", "left") for number in range(10_001)]
            waiting = [asyncio.create_task(service.coordinate_transaction(each)) for each in asked]
            await until(lambda: len(service.active_coordinations) == len(asked))
            refused = await service.coordinate_transaction(request("more", "left"))
            assert (refused.outcome, refused.code) == (Outcome.REFUSED, "request.overloaded")
            assert "max_concurrent_coordinations" in str(refused.error_message)
            gate.set()
            results = await asyncio.gather(*waiting)
            assert all(result.success for result in results)
            again = await service.coordinate_transaction(request("more", "left"))
            assert again.outcome is Outcome.COMMITTED

    asyncio.run(scenario())


# ---- the process and its loop ----------------------------------------------------------------


@pytest.mark.parametrize("ending", ["closed loop", "exit", "os._exit"])
def test_a_process_that_ends_without_closing_is_silent_and_its_work_is_finished_by_the_next(
    tmp_path: Path, ending: str
) -> None:
    ended = run_script("leaves_open.py", str(tmp_path), ending)
    assert (ended.returncode, ended.stderr) == (0, "")
    names = json.loads(ended.stdout)
    _recovered(tmp_path, names)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_as_python_has_it_and_the_next_one_finishes(
    tmp_path: Path, number: signal.Signals
) -> None:
    ended = run_script("leaves_open.py", str(tmp_path), f"signal {number.value}")
    expected = {signal.SIGINT: {-signal.SIGINT, 130}, signal.SIGTERM: {-signal.SIGTERM}}[number]
    assert ended.returncode in expected, ended.stderr
    _recovered(tmp_path, json.loads(ended.stdout))


def _recovered(folder: Path, names: list[str]) -> None:
    """The next process finishes: what was decided is there, what was not is nowhere."""

    async def scenario() -> None:
        stores = {"files": FileStore(folder / "files"), "other": FileStore(folder / "other")}
        async with CoordinationService(stores, journal=folder / "journal.db") as service:
            await service.recover()
            for name in names:
                ended = await service.wait_for(name, timeout=20)
                shown = await stores["files"].get(name) is not None
                assert shown is ended.success
                assert (await stores["other"].get(name) is not None) is shown
            for store in stores.values():
                assert await store.list_prepared_transactions() == []
            fresh = await service.coordinate_transaction(
                request(
                    "fresh",
                    "files",
                    operations=[{"store": "files", "type": "put", "key": "f", "value": "x"}],
                )
            )
            assert fresh.success

    asyncio.run(scenario())


# ---- the journal -----------------------------------------------------------------------------


def test_a_full_disk_refuses_or_leaves_in_doubt_and_works_again_when_there_is_room(
    tmp_path: Path,
) -> None:
    ended = run_script("full_disk.py", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["good_before"] > 0
    assert found["torn"] == []
    assert found["refused"] or found["unknown"]
    for message in found["messages"]:
        assert "journal" in message, message
    assert found["unsettled"] == []
    assert found["works_again"] is True


def test_a_full_disk_under_a_store_refuses_before_the_decision_and_waits_after_it(
    tmp_path: Path,
) -> None:
    ended = run_script("full_store_disk.py", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    # Decided: the answer is unknown, which the engine repeats, and with room it is done once.
    assert found["rows"] == {
        "vote": "COMMIT",
        "full": "store.unknown, retryable: True",
        "again": "SUCCESS",
        "n": 500,
        "left": [],
    }
    # Not decided: it votes ABORT, says why, and keeps nothing.
    files = found["files"]
    assert str(tmp_path) in files.pop("reason")
    assert files == {
        "full": "ABORT",
        "left": [],
        "vote": "COMMIT",
        "again": "SUCCESS",
        "size": 200_000,
    }


def test_a_journal_that_cannot_be_opened_is_an_error_and_nothing_is_asked(
    tmp_path: Path, ledgers: Ledgers
) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is no journal at all, and must stay as it is" * 100)
    before = path.read_bytes()

    async def scenario() -> None:
        service = CoordinationService(ledgers, journal=path)
        with pytest.raises(JournalError, match=re.escape(str(path))):
            await service.coordinate_transaction(request("t1"))
        missing = CoordinationService(ledgers, journal=tmp_path / "no" / "folder" / "journal.db")
        with pytest.raises(JournalError, match="folder"):
            await missing.start()

    asyncio.run(scenario())
    assert path.read_bytes() == before
    assert ledgers["left"].calls == []


# ---- what nobody owns ------------------------------------------------------------------------


def test_prepared_work_of_a_coordination_that_ended_is_swept(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        async with make_service(ledgers) as service:
            ledgers["right"].answer = OSError("no vote")
            assert not (await service.coordinate_transaction(request("t1"))).success
            await service.wait_for("t1", timeout=10)
            # As a store would that staged after everybody had given it up.
            ledgers["left"].staged["t1"] = []
            await service.recover()
            await until(lambda: not ledgers["left"].staged)

    asyncio.run(scenario())


def test_prepared_work_that_is_another_journals_is_left_alone(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        async with make_service(ledgers) as service:
            ledgers["left"].staged["somebody else's"] = []
            await service.recover()
            assert (await service.coordinate_transaction(request("t1"))).success
            await service.recover()

    asyncio.run(scenario())
    assert set(ledgers["left"].staged) == {"somebody else's"}


def test_native_stores_that_share_a_journal_hold_no_key_after_a_refusal(
    make_service: Make,
) -> None:
    async def scenario() -> None:
        one, two = MemoryStore("one"), MemoryStore("two")
        async with make_service({"one": one, "two": two}) as service:
            bad = [
                {"store": "one", "type": "put", "key": "k", "value": 1},
                {"store": "two", "type": "check", "key": "k", "exists": True},
            ]
            result = await service.coordinate_transaction(
                request("t1", "one", "two", operations=bad)
            )
            assert result.outcome is Outcome.ABORTED
            await service.wait_for("t1", timeout=10)
            good = await service.coordinate_transaction(request("t2", "one", "two"))
            assert good.outcome is Outcome.COMMITTED

    asyncio.run(scenario())


def test_the_page_names_tests_that_exist_and_every_test_here_has_a_row() -> None:
    named = set(re.findall(r"`(test_\w+)\.py::(test_\w+)`", PAGE.read_text()))
    for module, test in named:
        source = (HERE / f"{module}.py").read_text()
        assert re.search(rf"^def {test}\(", source, re.MULTILINE), f"{module}.py has no {test}"
    here = re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE)
    listed = {test for module, test in named if module == Path(__file__).stem}
    assert listed == {name for name in here if not name.startswith("test_the_page")}
    assert os.environ.get("PYTEST_CURRENT_TEST")
