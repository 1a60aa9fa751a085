"""One row for each setting of alerts: a service is made with it, and does what the setting says.

As `config_rows`, whose rows these are put beside.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import Any

from config_rows import PATIENCE, World, row, until
from ledger import Ledger, request
from test_alerting import Heard, fail
from test_consensus import Agreement
from unanimity import CommitResult, LocalLockManager, LockType, LogAlerting, WebhookAlerting
from unanimity._alert_rules import AlertSettings
from unanimity._alert_watch import alert_settings_of
from webhook_receiver import WebhookReceiver

LOOKS = "evaluation_interval_seconds"


def settings(**alerts: Any) -> dict[str, Any]:
    return {"monitoring": {"alerts": {LOOKS: 0.02, **alerts}}, "journal": "memory:"}


async def _failing(world: World, of: int, **alerts: Any) -> Heard:
    """One of so many coordinations fails; what was heard until the rules looked at that."""
    heard, ledger = Heard(), Ledger("left")
    config = settings(**alerts)
    async with world.service(config, {"left": ledger}, alerting_service=heard) as service:
        asked = [request(f"good{number}", "left") for number in range(of - 1)]
        for result in await asyncio.gather(*map(service.coordinate_transaction, asked)):
            assert result.success
        await fail(service, ledger, 1)
        await _looks(service, 3)
    return heard


async def _looks(service: Any, count: int) -> None:
    """Wait until the rules have looked so often, from now on."""
    rules, seen = service._watch._rules, 0
    judge = rules.judge

    def judged(*arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        return judge(*arguments)

    rules.judge = judged
    await until(lambda: seen >= count, "the rules looked")


@row("monitoring.alerts.high_failure_rate_threshold")
async def _(world: World) -> None:
    # The rules by themselves have the same defaults.
    assert alert_settings_of(world.config({})) == AlertSettings()
    for threshold, fires in ((0.04, True), (0.05, False)):
        heard = await _failing(world, 20, high_failure_rate_threshold=threshold)
        assert bool(heard.of("high_failure_rate", "firing")) == fires


@row("monitoring.alerts.minimum_samples")
async def _(world: World) -> None:
    for least, fires in ((3, True), (4, False)):
        heard = await _failing(world, 3, minimum_samples=least)
        assert bool(heard.of("high_failure_rate", "firing")) == fires


@row("monitoring.alerts.high_latency_threshold_ms")
async def _(world: World) -> None:
    class Slow(Ledger):
        async def prepare_transaction(self, request: Any) -> Any:
            await asyncio.sleep(0.01)
            return await super().prepare_transaction(request)

    for threshold, fires in ((1, True), (3_600_000, False)):
        heard = Heard()
        config = settings(high_latency_threshold_ms=threshold, minimum_samples=1)
        stores = {"left": Slow("left")}
        async with world.service(config, stores, alerting_service=heard) as service:
            assert (await service.coordinate_transaction(request("t1", "left"))).success
            await _looks(service, 3)
        assert bool(heard.of("high_latency", "firing")) == fires


@row("monitoring.alerts.deadlock_rate_threshold_per_hour")
async def _(world: World) -> None:
    for threshold, fires in ((0, True), (1, False)):
        heard = Heard()
        config = settings(deadlock_rate_threshold_per_hour=threshold)
        async with (
            LocalLockManager() as manager,
            world.service(config, lock_manager=manager, alerting_service=heard) as service,
        ):
            for name in "ab":
                await manager.acquire_lock(name, LockType.EXCLUSIVE, f"has {name}")
            wants = [("b", "has a"), ("a", "has b")]
            await asyncio.gather(
                *(manager.acquire_lock(what, LockType.EXCLUSIVE, who, 1) for what, who in wants)
            )
            await _looks(service, 3)
        assert bool(heard.of("deadlock_rate", "firing")) == fires


@row("monitoring.alerts.in_doubt_age_threshold_seconds")
async def _(world: World) -> None:
    for threshold, fires in ((0.01, True), (3_600, False)):
        heard, agreement = Heard(), Agreement()
        agreement.hang = asyncio.Event()
        config = settings(in_doubt_age_threshold_seconds=threshold)
        objects = {"consensus_service": agreement, "alerting_service": heard}
        async with world.service(config, {"left": Ledger("left")}, **objects) as service:
            task = asyncio.create_task(service.coordinate_transaction(request("t1", "left")))
            await asyncio.wait_for(agreement.asked.wait(), PATIENCE)
            if fires:
                await heard.hear("in_doubt", "firing")
            else:
                await _looks(service, 5)
            agreement.hang.set()
            await task
        assert bool(heard.of("in_doubt", "firing")) == fires


@row("monitoring.alerts.undelivered_age_threshold_seconds")
async def _(world: World) -> None:
    for threshold, fires in ((0.01, True), (3_600, False)):
        heard, ledger = Heard(), Ledger("left")
        ledger.commit_answer = OSError("away")
        config = {
            **settings(undelivered_age_threshold_seconds=threshold),
            "timeouts": {"commit_phase_timeout_seconds": 0.05},
        }
        async with world.service(config, {"left": ledger}, alerting_service=heard) as service:
            assert (await service.coordinate_transaction(request("t1", "left"))).success
            if fires:
                await heard.hear("undelivered", "firing")
            else:
                await _looks(service, 5)
            ledger.commit_answer = None
            await service.wait_for("t1", PATIENCE)
        assert bool(heard.of("undelivered", "firing")) == fires


@row("monitoring.alerts.parked_age_threshold_seconds")
async def _(world: World) -> None:
    for threshold, fires in ((0.01, True), (3_600, False)):
        heard, ledger = Heard(), Ledger("left")
        ledger.commit_answer = CommitResult("left", "FAILED", "disk on fire")
        config = settings(parked_age_threshold_seconds=threshold)
        async with world.service(config, {"left": ledger}, alerting_service=heard) as service:
            await service.coordinate_transaction(request("t1", "left"))
            if fires:
                await heard.hear("parked", "firing")
            else:
                await _looks(service, 5)
        assert bool(heard.of("parked", "firing")) == fires


@row("monitoring.alerts.window_seconds", "monitoring.alerts.resolve_after_seconds")
async def _(world: World) -> None:
    for short, ends in (({"window_seconds": 0.1, "resolve_after_seconds": 0.1}, True), ({}, False)):
        heard, ledger = Heard(), Ledger("left")
        config = settings(**short)
        async with world.service(config, {"left": ledger}, alerting_service=heard) as service:
            await fail(service, ledger, 20)
            await heard.hear("high_failure_rate", "firing")
            if ends:
                await heard.hear("high_failure_rate", "resolved")
            else:
                await _looks(service, 10)
        assert bool(heard.of("high_failure_rate", "resolved")) == ends


@row("monitoring.alerts.repeat_interval_seconds")
async def _(world: World) -> None:
    for interval, again in ((0.05, True), (3_600, False)):
        heard, ledger = Heard(), Ledger("left")
        config = settings(repeat_interval_seconds=interval)
        async with world.service(config, {"left": ledger}, alerting_service=heard) as service:
            await fail(service, ledger, 20)

            def told() -> int:
                return len(heard.of("high_failure_rate", "firing"))  # noqa: B023

            if again:
                await until(lambda: told() >= 3, "it was told again")
            else:
                await until(told, "it was told")
                await _looks(service, 10)
                assert told() == 1


@row("monitoring.alerts.enabled", "monitoring.alerts.evaluation_interval_seconds")
async def _(world: World) -> None:
    for alerts, looks in (({}, True), ({LOOKS: 3_600}, False), ({"enabled": False}, False)):
        heard, ledger = Heard(), Ledger("left")
        config = settings(**alerts)
        async with world.service(config, {"left": ledger}, alerting_service=heard) as service:
            await fail(service, ledger, 20)
            if looks:
                await heard.hear("high_failure_rate", "firing")
            # Whatever is told, the service does the same.
            assert (await service.coordinate_transaction(request("good", "left"))).success
        assert bool(heard.sent) == looks
        assert (service._watch is None) == (alerts == {"enabled": False})


@row("monitoring.alerts.webhook_url", "monitoring.alerts.webhook_secret")
async def _(world: World) -> None:
    assert isinstance(world.service({}).alerting, LogAlerting)
    ledger = Ledger("left")
    with WebhookReceiver() as receiver:
        config = settings(webhook_url=receiver.url, webhook_secret="swordfish")
        service = world.service(config, {"left": ledger})
        assert isinstance(service.alerting, WebhookAlerting)
        async with service:
            await fail(service, ledger, 20)
            await asyncio.to_thread(receiver.wait_for, 1)
        # The service made it, and has closed it.
        assert service.alerting._delivery._ends_at is not None
        (post,) = receiver.posts
    fields = dict(field.split("=") for field in post.headers["x-unanimity-signature"].split(","))
    signed = fields["t"].encode() + b"." + post.body
    assert hmac.new(b"swordfish", signed, hashlib.sha256).hexdigest() == fields["v1"]
    shown = str(world.config(config).to_mapping())
    assert "swordfish" not in shown and "s3cr3t-path" not in shown
