"""Buses that several processes share: what competes, what is remembered, and what dies meanwhile.

A program here is started with its bus in its text, and tells what it handles line by line.
Invariant: whoever is started is ended with its block.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boundary.programs import start
from event_bus_backends import PATIENCE, SHARED, Inbox, bus_source, event, make_bus
from nats_server import NatsServer, find_nats
from unanimity import ConfigError, EventBusError, NatsEventBus

STREAMS = 12


@pytest.fixture(params=SHARED)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of bus."""
    return str(request.param)


@pytest.fixture
def server() -> Iterator[NatsServer]:
    """A server of its own, for a test that kills it."""
    if find_nats() is None:
        pytest.skip("nats-server is not installed")
    with NatsServer() as server:
        yield server


# Appends what it handles to a file, so that what it had done is known when it is killed.
WORKER = """
import json, unanimity

async def main():
    bus = BUS
    handled = open(NAME, "a")

    async def handler(event):
        await asyncio.sleep(0.002)
        handled.write(json.dumps([event["stream"], event["number"]]) + "\\n")
        handled.flush()

    await bus.subscribe("TOLD", handler, group="workers")
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def lines_of(path: Path) -> list[tuple[str, int]]:
    """What a worker has handled, without a line that it did not end."""
    text = path.read_text() if path.exists() else ""
    lines = text.split("\n")[:-1]
    return [(stream, number) for stream, number in map(json.loads, lines)]


async def until_handled(paths: list[Path], count: int) -> list[list[tuple[str, int]]]:
    """What each worker has handled, when all together have handled so many events."""
    for _ in range(int(PATIENCE / 0.05)):
        handled = [lines_of(path) for path in paths]
        if len({one for lines in handled for one in lines}) >= count:
            return handled
        await asyncio.sleep(0.05)
    raise AssertionError(f"only {[len(lines_of(path)) for path in paths]} of {count} were handled")


def in_order(lines: list[tuple[str, int]]) -> bool:
    """Whether the first time of each event comes in the order of its stream."""
    last: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    for stream, number in lines:
        if (stream, number) in seen:
            continue
        seen.add((stream, number))
        if number <= last.get(stream, -1):
            return False
        last[stream] = number
    return True


async def publish_all(bus: Any, numbers: range) -> None:
    """Events of every stream, all streams side by side, each in its order."""

    async def publish_stream(name: str) -> None:
        for number in numbers:
            await bus.publish_event({"type": "TOLD", "stream": name, "number": number})

    await asyncio.gather(*(publish_stream(f"s{number}") for number in range(STREAMS)))


def test_two_processes_share_a_group_and_one_that_is_killed_loses_nothing(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made = bus_source(kind, request)
    paths = [tmp_path / str(number) / "handled" for number in range(2)]

    async def scenario() -> None:
        source = WORKER.replace("BUS", made).replace("NAME", "'handled'")
        with contextlib.ExitStack() as stack:
            workers = []
            for path in paths:
                worker = stack.enter_context(start(source, path.parent))
                assert worker.stdout is not None
                assert (await asyncio.to_thread(worker.stdout.readline)).strip() == "ready"
                workers.append(worker)
            async with make_bus(made) as bus:
                await publish_all(bus, range(20))
                handled = await until_handled(paths, 20 * STREAMS)
                both = [one for lines in handled for one in lines]
                assert len(both) == len(set(both)), "nothing was handled twice"
                assert all(in_order(lines) for lines in handled)

                publishing = asyncio.ensure_future(publish_all(bus, range(20, 60)))
                handled = await until_handled(paths, 25 * STREAMS)
                # The one that has done more: how they share is not promised.
                busy = max(range(2), key=lambda worker: len(handled[worker]))
                workers[busy].send_signal(signal.SIGKILL)
                await publishing
                first, second = await until_handled(paths, 60 * STREAMS)
                assert in_order(first) and in_order(second)

    asyncio.run(scenario())


def test_a_group_is_remembered_and_one_without_a_group_is_not(
    kind: str, request: pytest.FixtureRequest
) -> None:
    made = bus_source(kind, request)

    async def scenario() -> None:
        async with make_bus(made) as bus:
            before = Inbox()
            first = await bus.subscribe("*", before, group="workers")
            alone = await bus.subscribe("*", before)
            await bus.publish_event(event("1"))
            assert await before.until(2) == ["1", "1"]
            await first.unsubscribe()
            await alone.unsubscribe()
            await bus.publish_event(event("2"))
        async with make_bus(made) as bus:
            after, alone_after = Inbox(), Inbox()
            await bus.subscribe("*", alone_after)
            await bus.subscribe("*", after, group="workers")
            await bus.publish_event(event("3"))
            assert await after.until(2) == ["2", "3"]
            assert await alone_after.until(1) == ["3"]
            assert len(before.seen) == 2

    asyncio.run(scenario())


def test_an_id_counts_once(kind: str, request: pytest.FixtureRequest) -> None:
    async def scenario() -> None:
        async with make_bus(bus_source(kind, request)) as bus:
            inbox = Inbox()
            await bus.subscribe("*", inbox)
            for name in ("first", "second"):
                await bus.publish_event({**event(name, "one"), "event_id": "the same"})
            await bus.publish_event(event("last", "one"))
            assert await inbox.until(2) == ["first", "last"]

    asyncio.run(scenario())


def test_a_group_of_nats_listens_to_all_types_or_to_some(request: pytest.FixtureRequest) -> None:
    async def scenario() -> None:
        async with make_bus(bus_source("nats", request)) as bus:
            inbox = Inbox()
            await bus.subscribe("A", inbox, group="some")
            await bus.subscribe("B", inbox, group="some")
            with pytest.raises(EventBusError, match='group "some" listens to all types in one'):
                await bus.subscribe("*", inbox, group="some")
            await bus.subscribe("*", inbox, group="all")
            with pytest.raises(EventBusError, match='group "all" listens to all types in one'):
                await bus.subscribe("A", inbox, group="all")

    asyncio.run(scenario())


def test_a_server_that_is_killed_and_started_again_loses_nothing(server: NatsServer) -> None:
    async def scenario() -> None:
        inbox, alone = Inbox(), Inbox()
        async with NatsEventBus(server.url, redelivery_seconds=1.0, publish_seconds=60.0) as bus:
            await bus.subscribe("*", inbox, group="workers")
            await bus.subscribe("*", alone)

            async def publish() -> None:
                for number in range(200):
                    await bus.publish_event(event(f"{number:03}", f"s{number % 5}"))

            publishing = asyncio.ensure_future(publish())
            await inbox.until(50)
            await asyncio.to_thread(server.kill)
            assert not publishing.done()
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(publishing, PATIENCE)
            wanted = {f"{number:03}" for number in range(200)}
            for box in (inbox, alone):
                while set(box.names) != wanted:
                    await box.until(len(box.seen) + 1)
                for stream in range(5):
                    first_times = dict.fromkeys(
                        name for name in box.names if int(name) % 5 == stream
                    )
                    assert list(first_times) == sorted(first_times)

    asyncio.run(scenario())


def test_a_server_that_is_gone_is_told_to_publishers_in_time(server: NatsServer) -> None:
    async def scenario() -> None:
        async with NatsEventBus(server.url, publish_seconds=0.5) as bus:
            await bus.publish_event(event("1"))
            await asyncio.to_thread(server.kill)
            with pytest.raises(EventBusError, match="publish it again under the same id") as told:
                await asyncio.wait_for(bus.publish_event(event("2")), PATIENCE)
            assert told.value.code == "events.unavailable"
            assert f"at NATS 127.0.0.1:{server.port}" in str(told.value)
            await asyncio.to_thread(server.start)

    asyncio.run(scenario())


def test_a_server_that_is_not_there_is_told_and_used_when_it_is(server: NatsServer) -> None:
    async def scenario() -> None:
        server.kill()
        bus = NatsEventBus(server.url)
        with pytest.raises(EventBusError, match="is a NATS server running there"):
            await bus.start()
        with pytest.raises(EventBusError, match="is a NATS server running there"):
            await bus.publish_event(event("1"))
        await asyncio.to_thread(server.start)
        inbox = Inbox()
        await bus.subscribe("*", inbox)
        await bus.publish_event(event("2"))
        assert await inbox.until(1) == ["2"]
        await bus.close()

    asyncio.run(scenario())


def test_a_stream_with_other_partitions_is_refused(server: NatsServer) -> None:
    async def scenario() -> None:
        async with NatsEventBus(server.url, partitions=4):
            pass
        with pytest.raises(EventBusError, match=r"4 partitions.* this bus is for .*16 partitions"):
            await NatsEventBus(server.url).start()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"url": 5}, "url is no str, or empty"),
        ({"url": "http://somewhere"}, 'give "nats://host:port"'),
        ({"url": "nats://user:secret@"}, 'give "nats://host:port"'),
        ({"stream": "a.b"}, '"a.b" cannot name a stream; use up to 64 letters'),
        ({"partitions": 0}, "partitions is 0; give a whole number from 1"),
        ({"partitions": 1000}, "partitions must be from 1 to 256"),
        ({"publish_seconds": -1}, "publish_seconds is -1; give a number of seconds"),
        ({"redelivery_seconds": 0.01}, "redelivery must be 0.1 s or more"),
    ],
)
def test_a_bus_that_cannot_be_is_refused(arguments: dict[str, Any], words: str) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigError) as refused:
            await NatsEventBus(**{"url": "nats://127.0.0.1", **arguments}).start()
        assert words in str(refused.value)
        assert "secret" not in str(refused.value)

    asyncio.run(scenario())
