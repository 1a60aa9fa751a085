"""The duties of every event bus, on each of them: who is told, in which order, how often.

What several processes and a server that dies do is in test_event_bus_shared.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from event_bus_backends import KINDS, PATIENCE, Inbox, bus_source, event, make_bus
from ledger import Ledger
from ledger import request as make_request
from unanimity import (
    ConfigError,
    CoordinationService,
    EventBusError,
    InProcessEventBus,
    InvalidRequest,
    ParkedEvent,
)

Scenario = Callable[[Any], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of bus."""
    return str(request.param)


@pytest.fixture
def run(kind: str, request: pytest.FixtureRequest) -> Run:
    """Runs a scenario on an open bus of that kind."""

    def run_one(scenario: Scenario) -> None:
        async def main() -> None:
            async with make_bus(bus_source(kind, request)) as bus:
                await scenario(bus)

        asyncio.run(main())

    return run_one


async def parked_soon(bus: Any, count: int = 1) -> list[ParkedEvent]:
    """The parked events, when there are so many; parking answers nobody, so it is asked for."""
    for _ in range(int(PATIENCE / 0.02)):
        parked: list[ParkedEvent] = await bus.parked()
        if len(parked) >= count:
            return parked
        await asyncio.sleep(0.02)
    raise AssertionError("nothing was parked")


def test_handlers_get_the_events_of_their_type_with_an_id(run: Run) -> None:
    async def scenario(bus: Any) -> None:
        some, every = Inbox(), Inbox()
        await bus.subscribe("TOLD", some)
        await bus.subscribe("*", every)
        given = {"type": "OTHER", "name": "1", "list": [1, None, {"a": b"\0"}], "event_id": "mine"}
        await bus.publish_event(given)
        await bus.publish_event(event("2"))
        assert sorted(await every.until(2)) == ["1", "2"]
        assert await some.until(1) == ["2"]
        by_name = {one["name"]: one for one in every.seen}
        assert by_name["1"] == given
        assert by_name["2"].pop("event_id")
        assert by_name["2"] == event("2")

    run(scenario)


def test_a_stream_keeps_its_order_and_waits_for_nobody_elses(run: Run) -> None:
    # Streams that any bus may keep apart: with partitions, two may share one by chance.
    async def scenario(bus: Any) -> None:
        gate = asyncio.Event()
        inbox = Inbox()

        async def handler(told: dict[str, Any]) -> None:
            if told["name"] == "slow":
                await gate.wait()
            await inbox(told)

        await bus.subscribe("*", handler)
        await bus.publish_event(event("slow", "a"))
        for number in range(20):
            await bus.publish_event(event(f"a{number}", "a"))
            await bus.publish_event(event(f"b{number}", "b"))
        assert await inbox.until(20) == [f"b{number}" for number in range(20)]
        gate.set()
        names = await inbox.until(41)
        assert names[20:] == ["slow", *(f"a{number}" for number in range(20))]

    run(scenario)


def test_a_group_shares_its_events_and_each_is_handled_once(run: Run) -> None:
    async def scenario(bus: Any) -> None:
        inboxes = [Inbox(), Inbox(), Inbox()]
        together, alone = asyncio.Event(), Inbox()
        handled: list[str] = []

        def handler_of(inbox: Inbox) -> Callable[[dict[str, Any]], Awaitable[None]]:
            async def handler(told: dict[str, Any]) -> None:
                await inbox(told)
                handled.append(told["name"])
                if len(handled) == 60:
                    together.set()

            return handler

        for inbox in inboxes:
            await bus.subscribe("TOLD", handler_of(inbox), group="workers")
        await bus.subscribe("TOLD", alone)
        for number in range(60):
            await bus.publish_event(event(str(number), f"stream {number % 20}"))
        await asyncio.wait_for(together.wait(), PATIENCE)
        await alone.until(60)
        assert sorted(handled, key=int) == [str(number) for number in range(60)]
        for number in range(20):
            mine = [name for name in handled if int(name) % 20 == number]
            assert mine == sorted(mine, key=int)

    run(scenario)


def test_a_failing_event_is_tried_again_then_parked_then_redriven(run: Run) -> None:
    async def scenario(bus: Any) -> None:
        inbox = Inbox()
        inbox.raises = {"bad": 3, "shaky": 1}
        await bus.subscribe("TOLD", inbox, group="workers", attempts=3)
        for name in ("shaky", "bad", "good"):
            await bus.publish_event(event(name, "one"))
        assert await inbox.until(6) == ["shaky", "shaky", "bad", "bad", "bad", "good"]
        (parked,) = await parked_soon(bus)
        assert (parked.event["name"], parked.group, parked.attempts) == ("bad", "workers", 3)
        assert parked.event_id == parked.event["event_id"]
        assert "raised ValueError: not bad" in parked.error_message
        assert abs(parked.parked_at - datetime.now(timezone.utc)) < timedelta(minutes=5)

        assert await bus.redrive(parked.event_id, "others") is False
        assert await bus.redrive("unknown", "workers") is False
        assert await bus.redrive(parked.event_id, "workers") is True
        assert (await inbox.until(7))[6:] == ["bad"]
        assert await bus.parked() == []
        assert await bus.redrive(parked.event_id, "workers") is False

    run(scenario)


def test_a_handler_that_takes_too_long_has_failed(run: Run) -> None:
    async def scenario(bus: Any) -> None:
        async def hangs(told: dict[str, Any]) -> None:
            await asyncio.Event().wait()

        await bus.subscribe("*", hangs, group="slow", attempts=1, timeout_seconds=0.05)
        await bus.publish_event(event("1"))
        (parked,) = await parked_soon(bus)
        assert "no answer within 0.05 s" in parked.error_message

    run(scenario)


def test_plain_functions_run_in_threads(run: Run) -> None:
    async def scenario(bus: Any) -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def handler(_: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(told.put_nowait, threading.current_thread().name)

        await bus.subscribe("*", handler)
        await bus.publish_event(event("1"))
        name = await asyncio.wait_for(told.get(), PATIENCE)
        assert name != threading.current_thread().name

    run(scenario)


def test_unsubscribing_waits_for_the_handler_and_nothing_comes_after_it(run: Run) -> None:
    async def scenario(bus: Any) -> None:
        begun, gate = asyncio.Event(), asyncio.Event()
        names: list[str] = []

        async def handler(told: dict[str, Any]) -> None:
            begun.set()
            await gate.wait()
            names.append(told["name"])

        subscription = await bus.subscribe("*", handler)
        await bus.publish_event(event("1", "one"))
        await bus.publish_event(event("2", "one"))
        await asyncio.wait_for(begun.wait(), PATIENCE)
        ending = asyncio.ensure_future(subscription.unsubscribe())
        other = Inbox()
        async with await bus.subscribe("*", other) as later:
            assert "under way" in repr(later)
            assert not ending.done()
            gate.set()
            assert await asyncio.wait_for(ending, PATIENCE) is True
            assert names == ["1"]
            await bus.publish_event(event("3", "one"))
            assert await other.until(1) == ["3"]
        assert names == ["1"]
        assert await subscription.unsubscribe() is False
        assert "ended" in repr(later)

    run(scenario)


def test_a_slow_subscription_holds_up_only_itself_and_no_more_is_out_than_it_takes(
    run: Run,
) -> None:
    async def scenario(bus: Any) -> None:
        gate, quick = asyncio.Event(), Inbox()
        out = most = 0
        done: list[str] = []
        finished = asyncio.Event()

        async def slow(told: dict[str, Any]) -> None:
            nonlocal out, most
            out += 1
            most = max(most, out)
            await gate.wait()
            out -= 1
            done.append(told["name"])
            if len(done) == 50:
                finished.set()

        await bus.subscribe("*", slow, max_in_flight=3)
        await bus.subscribe("*", quick)
        for number in range(50):
            await bus.publish_event(event(str(number), str(number)))
        await quick.until(50)
        gate.set()
        await asyncio.wait_for(finished.wait(), PATIENCE)
        assert most <= 3

    run(scenario)


def test_closing_waits_for_handlers_and_then_everything_is_refused(
    kind: str, request: pytest.FixtureRequest
) -> None:
    async def scenario() -> None:
        bus = make_bus(bus_source(kind, request))
        begun, gate = asyncio.Event(), asyncio.Event()

        async def handler(_: dict[str, Any]) -> None:
            begun.set()
            await gate.wait()

        subscription = await bus.subscribe("*", handler)
        await bus.publish_event(event("1"))
        await asyncio.wait_for(begun.wait(), PATIENCE)
        closing = asyncio.ensure_future(bus.close())
        await asyncio.sleep(0)
        with pytest.raises(EventBusError, match="closed; make another") as refused:
            await bus.publish_event(event("2"))
        assert refused.value.code == "events.closed"
        assert not closing.done()
        gate.set()
        await asyncio.wait_for(closing, PATIENCE)
        await bus.close()
        assert await subscription.unsubscribe() is False
        with pytest.raises(EventBusError, match="closed"):
            await bus.subscribe("*", handler)
        assert repr(bus) == f"{type(bus).__name__}(closed)"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ("text", TypeError, "event is a str; give a dict"),
        ({}, InvalidRequest, r"event\['type'\] is missing"),
        ({"type": 1}, InvalidRequest, r"event\['type'\] is a int; give a str"),
        ({"type": "A", "x": [{1}]}, InvalidRequest, r"event\['x'\]\[0\] is a set; give"),
        ({"type": "A", "event_id": ""}, InvalidRequest, r"event\['event_id'\] is empty"),
        ({"type": "A", "stream": 5}, InvalidRequest, r"event\['stream'\] is a int"),
        ({"type": "A" * 600}, EventBusError, "the event's type has 600 characters"),
    ],
)
def test_an_event_that_cannot_be_is_refused(
    run: Run, bad: Any, error: type[Exception], words: str
) -> None:
    async def scenario(bus: Any) -> None:
        with pytest.raises(error, match=words):
            await bus.publish_event(bad)

    run(scenario)


def test_a_subscription_that_cannot_be_is_refused(run: Run) -> None:
    async def scenario(bus: Any) -> None:
        inbox = Inbox()
        with pytest.raises(TypeError, match="handler is a int; give something to call"):
            await bus.subscribe("A", 5)
        with pytest.raises(TypeError, match="event_type is a int; give a str"):
            await bus.subscribe(5, inbox)
        with pytest.raises(TypeError, match="group is a int; give a str"):
            await bus.subscribe("A", inbox, group=5)
        with pytest.raises(EventBusError, match="the group is empty"):
            await bus.subscribe("A", inbox, group="")
        with pytest.raises(ConfigError, match="attempts is 0; give a whole number from 1"):
            await bus.subscribe("A", inbox, attempts=0)
        with pytest.raises(ConfigError, match="max_in_flight is True"):
            await bus.subscribe("A", inbox, max_in_flight=True)
        with pytest.raises(ConfigError, match="timeout_seconds is 0; give a number of seconds"):
            await bus.subscribe("A", inbox, timeout_seconds=0)
        with pytest.raises(TypeError, match="event_id is a int"):
            await bus.redrive(5, "workers")

    run(scenario)


def test_a_service_tells_its_events_on_it(run: Run, tmp_path: Any) -> None:
    async def scenario(bus: Any) -> None:
        inbox = Inbox()
        types: list[str] = []

        async def handler(told: dict[str, Any]) -> None:
            types.append(told["type"])
            await inbox({**told, "name": told["coordination_id"]})

        await bus.subscribe("*", handler)
        stores = {"left": Ledger("left"), "right": Ledger("right")}
        journal = tmp_path / "journal.db"
        async with CoordinationService(stores, event_bus=bus, journal=journal) as service:
            result = await service.coordinate_transaction(make_request("t1"))
            assert result.success
            assert await inbox.until(2) == ["t1", "t1"]
        assert types == ["COORDINATION_STARTED", "COORDINATION_COMPLETED"]

    run(scenario)


def test_a_full_queue_is_refused_to_the_publisher_by_its_name() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def slow(_: dict[str, Any]) -> None:
            await gate.wait()

        async with InProcessEventBus(queue_size=2) as bus:
            await bus.subscribe("*", slow, group="slow")
            await bus.publish_event(event("1"))
            await bus.publish_event(event("2"))
            with pytest.raises(EventBusError, match='queue of group "slow" is full') as refused:
                await bus.publish_event(event("3"))
            assert refused.value.code == "events.refused"
            gate.set()

    asyncio.run(scenario())


def test_a_bus_may_be_used_from_several_loops_and_a_handler_runs_on_its_own() -> None:
    bus = InProcessEventBus()
    told: list[tuple[str, str]] = []
    ready, over = threading.Event(), threading.Event()

    async def listen() -> None:
        done = asyncio.Event()

        async def handler(one: dict[str, Any]) -> None:
            told.append((one["name"], threading.current_thread().name))
            done.set()

        await bus.subscribe("*", handler)
        ready.set()
        await asyncio.wait_for(done.wait(), PATIENCE)

    def in_thread() -> None:
        asyncio.run(listen())
        over.set()

    thread = threading.Thread(target=in_thread, name="listener")
    thread.start()
    assert ready.wait(PATIENCE)

    async def publish() -> None:
        await bus.publish_event(event("1"))
        thread.join(PATIENCE)
        # Its loop is gone and the subscription with it: nobody's tries are spent on it.
        await bus.publish_event(event("2"))
        assert await bus.parked() == []
        await bus.close()

    asyncio.run(publish())
    assert told == [("1", "listener")]
    assert over.is_set()
