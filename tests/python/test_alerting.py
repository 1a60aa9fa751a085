"""A service's alert rules, from what really happens to what the alerting service is sent."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config_rows import until
from ledger import Ledger, request
from raft_cluster import free_ports
from test_consensus import Agreement
from unanimity import (
    CoordinationService,
    CoordinationType,
    LocalLockManager,
    LockType,
    LogAlerting,
    Outcome,
    Participant,
    Permanent,
    PrepareResult,
    RaftConsensusService,
    WebhookAlerting,
)
from webhook_receiver import WebhookReceiver

Make = Callable[..., CoordinationService]
PATIENCE = 30.0
NO = PrepareResult("left", "ABORT", "not today")
QUICK = {"evaluation_interval_seconds": 0.02, "resolve_after_seconds": 0.1, "window_seconds": 0.3}


def alerts(**more: Any) -> dict[str, Any]:
    """Settings with rules that look often."""
    return {"monitoring": {"alerts": {**QUICK, **more}}}


class Heard:
    """An alerting service that keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()

    async def send_alert(
        self, severity: str, title: str, message: str, details: dict[str, Any]
    ) -> None:
        given = {"severity": severity, "title": title, "message": message, "details": details}
        async with self._changed:
            self.sent.append(given)
            self._changed.notify_all()

    def of(self, name: str, state: str) -> list[dict[str, Any]]:
        wanted = (name, state)
        return [
            alert
            for alert in self.sent
            if (alert["details"].get("alert"), alert["details"].get("state")) == wanted
        ]

    async def hear(self, name: str, state: str) -> dict[str, Any]:
        """Wait for an alert of this rule in this state."""
        async with self._changed:
            heard = self._changed.wait_for(lambda: self.of(name, state))
            return (await asyncio.wait_for(heard, PATIENCE))[0]


async def fail(service: CoordinationService, ledger: Ledger, count: int) -> None:
    """Have so many coordinations fail."""
    ledger.answer = NO
    asked = [request(f"bad{number}", "left") for number in range(count)]
    results = await asyncio.gather(*map(service.coordinate_transaction, asked))
    assert all(result.outcome is Outcome.ABORTED for result in results)
    ledger.answer = None


def test_a_burst_of_failures_is_one_post_and_its_end_another(make_service: Make) -> None:
    ledger = Ledger("left")
    with WebhookReceiver() as receiver:

        async def scenario() -> None:
            async with (
                WebhookAlerting(receiver.url) as webhook,
                make_service(
                    {"left": ledger}, alerting_service=webhook, config=alerts(), journal="memory:"
                ) as service,
            ):
                await fail(service, ledger, 30)
                await asyncio.to_thread(receiver.wait_for, 2)
                # Good ones, and many looks, tell nothing more.
                for number in range(30):
                    good = request(f"good{number}", "left")
                    assert (await service.coordinate_transaction(good)).success

        asyncio.run(scenario())
        fired, resolved = (post.alert for post in receiver.posts)
    assert (fired["severity"], fired["title"]) == ("high", "High failure rate")
    assert fired["details"]["failed"] == 30 and fired["details"]["state"] == "firing"
    names = {example["coordination_id"] for example in fired["details"]["examples"]}
    assert names <= {f"bad{number}" for number in range(30)} and len(names) == 5
    assert (resolved["severity"], resolved["title"]) == ("info", "Resolved: High failure rate")


def test_slow_coordinations_are_told(make_service: Make) -> None:
    class Slow(Ledger):
        async def prepare_transaction(self, request: Any) -> Any:
            await asyncio.sleep(0.005)
            return await super().prepare_transaction(request)

    async def scenario() -> None:
        heard = Heard()
        config = alerts(high_latency_threshold_ms=1, minimum_samples=3)
        async with make_service(
            {"left": Slow("left")}, alerting_service=heard, config=config
        ) as service:
            asked = [request(f"t{number}", "left") for number in range(3)]
            await asyncio.gather(*map(service.coordinate_transaction, asked))
            alert = await heard.hear("high_latency", "firing")
            assert alert["details"]["slow"] == 3 and alert["details"]["slowest_ms"] >= 5
            await heard.hear("high_latency", "resolved")
            assert heard.of("high_failure_rate", "firing") == []

    asyncio.run(scenario())


def test_deadlocks_are_told(make_service: Make) -> None:
    async def scenario() -> None:
        heard = Heard()
        config = alerts(deadlock_rate_threshold_per_hour=1)
        async with (
            LocalLockManager() as manager,
            make_service({}, lock_manager=manager, alerting_service=heard, config=config),
        ):
            for _ in range(2):
                await _deadlock(manager)
            alert = await heard.hear("deadlock_rate", "firing")
            assert alert["details"]["deadlocks"] == 2 and alert["severity"] == "medium"

    asyncio.run(scenario())


async def _deadlock(manager: LocalLockManager) -> None:
    for name in "ab":
        await manager.acquire_lock(name, LockType.EXCLUSIVE, f"has {name}")
    wants = [("b", "has a"), ("a", "has b")]
    found = await asyncio.gather(
        *(manager.acquire_lock(what, LockType.EXCLUSIVE, who, 1) for what, who in wants)
    )
    assert any(each.deadlock_cycle for each in found)
    for name in "ab":
        await manager.release_all(f"has {name}")


def test_a_coordination_in_doubt_is_told_and_its_end_too(make_service: Make) -> None:
    async def scenario() -> None:
        heard, agreement = Heard(), Agreement()
        agreement.hang = asyncio.Event()
        config = alerts(in_doubt_age_threshold_seconds=0.05)
        async with make_service(
            {"left": Ledger("left")},
            consensus_service=agreement,
            alerting_service=heard,
            config=config,
        ) as service:
            task = asyncio.create_task(service.coordinate_transaction(request("t1", "left")))
            alert = await heard.hear("in_doubt", "firing")
            assert alert["details"]["coordination_ids"] == ["t1"]
            assert alert["details"]["count"] == 1
            agreement.hang.set()
            assert (await task).success
            await heard.hear("in_doubt", "resolved")

    asyncio.run(scenario())


def test_a_decision_that_a_store_does_not_take_is_told_and_its_end_too(make_service: Make) -> None:
    async def scenario() -> None:
        heard, ledger = Heard(), Ledger("left")
        ledger.commit_answer = OSError("away")
        config = {
            **alerts(undelivered_age_threshold_seconds=0.05),
            "timeouts": {"commit_phase_timeout_seconds": 0.05},
        }
        async with make_service({"left": ledger}, alerting_service=heard, config=config) as service:
            assert (await service.coordinate_transaction(request("t1", "left"))).success
            alert = await heard.hear("undelivered", "firing")
            assert alert["details"]["coordination_ids"] == ["t1"]
            ledger.commit_answer = None
            await service.wait_for("t1", PATIENCE)
            await heard.hear("undelivered", "resolved")
            assert heard.of("in_doubt", "firing") == []

    asyncio.run(scenario())


def test_what_is_parked_is_told_at_once_and_again_while_nobody_mends_it(
    make_service: Make,
) -> None:
    index = Participant("index")
    mended = False

    @index.operation("put")
    async def put(_: Any) -> None:
        if not mended:
            raise Permanent("the index is closed")

    async def scenario() -> None:
        nonlocal mended
        heard = Heard()
        config = alerts(parked_age_threshold_seconds=0.05)
        async with make_service({"index": index}, alerting_service=heard, config=config) as service:
            asked = request(
                "e1",
                "index",
                coordination_type=CoordinationType.EVENTUAL_CONSISTENCY,
                operations=[{"store": "index", "type": "put", "operation_id": "o1"}],
            )
            await service.coordinate_transaction(asked)
            alert = await heard.hear("parked", "firing")
            assert alert["details"]["coordination_ids"] == ["e1"]
            at_once = [each for each in heard.sent if "alert" not in each["details"]]
            assert [each["title"] for each in at_once] == ["Manual intervention required"]
            mended = True
            assert await service.redrive("o1")
            await heard.hear("parked", "resolved")

    asyncio.run(scenario())


def test_a_lost_majority_is_told_and_its_end_too(make_service: Make) -> None:
    async def scenario() -> None:
        heard = Heard()
        nodes = [
            f"{name}=127.0.0.1:{port}" for name, port in zip("abc", free_ports(3), strict=True)
        ]
        rafts = [RaftConsensusService(name, nodes, 200, 40) for name in "abc"]
        async with make_service(
            {}, consensus_service=rafts[0], alerting_service=heard, config=alerts()
        ):
            alert = await heard.hear("lost_majority", "firing")
            assert alert["details"]["node_id"] == "a"
            async with rafts[1], rafts[2]:
                await heard.hear("lost_majority", "resolved")

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["raises", "hangs", "is plain and blocks"])
def test_an_alerting_service_that_is_bad_changes_nothing(make_service: Make, kind: str) -> None:
    gate = threading.Event()
    asked = threading.Event()

    class Bad:
        async def send_alert(self, **_: Any) -> None:
            asked.set()
            if kind == "hangs":
                await asyncio.Event().wait()
            raise ConnectionError("no alerts today")

    class Blocking:
        def send_alert(self, **_: Any) -> None:
            asked.set()
            gate.wait(PATIENCE)

    async def scenario() -> None:
        ledger = Ledger("left")
        bad = Blocking() if kind == "is plain and blocks" else Bad()
        service = make_service({"left": ledger}, alerting_service=bad, config=alerts())
        await fail(service, ledger, 20)
        assert await asyncio.to_thread(asked.wait, PATIENCE)
        assert (await service.coordinate_transaction(request("good", "left"))).success
        gate.set()
        await asyncio.wait_for(service.close(timeout=1), PATIENCE)

    asyncio.run(scenario())


def test_a_plain_method_serves_too(make_service: Make) -> None:
    titles: list[str] = []
    told = threading.Event()

    class Plain:
        def send_alert(
            self, severity: str, title: str, message: str, details: dict[str, Any]
        ) -> None:
            titles.append(title)
            told.set()

    async def scenario() -> None:
        ledger = Ledger("left")
        async with make_service(
            {"left": ledger}, alerting_service=Plain(), config=alerts()
        ) as service:
            await fail(service, ledger, 20)
            assert await asyncio.to_thread(told.wait, PATIENCE)

    asyncio.run(scenario())
    assert titles[0] == "High failure rate"


def _alerts_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "unanimity.alerts"]


def test_without_an_alerting_service_they_are_in_the_log(
    make_service: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        ledger = Ledger("left")
        async with make_service({"left": ledger}, config=alerts()) as service:
            assert isinstance(service.alerting, LogAlerting)
            await fail(service, ledger, 20)
            await until(lambda: _alerts_in(caplog), "it was logged")

    asyncio.run(scenario())
    (record,) = _alerts_in(caplog)
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("High failure rate: 20 of 20 coordinations")


def test_a_service_that_is_dropped_is_gone_though_its_rules_look(make_service: Make) -> None:
    async def scenario() -> None:
        service = make_service({"left": Ledger("left")}, config=alerts(), journal="memory:")
        assert (await service.coordinate_transaction(request("t1", "left"))).success
        known = weakref.ref(service)
        del service

        def is_gone() -> bool:
            gc.collect()
            return known() is None

        await until(is_gone, "it was gone")

    asyncio.run(scenario())


def test_a_loop_that_is_thrown_away_leaves_no_complaint_behind() -> None:
    program = """
import asyncio
from unanimity import CoordinationService
from unanimity.stores import MemoryStore

config = {"monitoring": {"alerts": {"evaluation_interval_seconds": 0.001}}}

async def main():
    service = CoordinationService({"left": MemoryStore("left")}, journal="memory:", config=config)
    for number in range(100):
        async with service.transaction() as tx:
            tx.add("left", "put", key="k", value=number)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_journal_that_cannot_be_written_is_told_and_its_end_too(tmp_path: Path) -> None:
    script = Path(__file__).parent / "crash" / "scripts" / "full_disk_alert.py"
    command = [sys.executable, "-W", "error", str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told == ["high: Journal cannot be written", "info: Resolved: Journal cannot be written"]
