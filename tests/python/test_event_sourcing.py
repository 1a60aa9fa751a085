"""Event sourcing as users see it: appends with versions, projections into their stores, streams."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from page_programs import programs_of, run_program
from unanimity import (
    CoordinationRequest,
    CoordinationResult,
    CoordinationService,
    CoordinationType,
    Event,
    InvalidRequest,
    IStorageStore,
    Outcome,
    Permanent,
    ServiceClosed,
    TransactionState,
)
from unanimity.cli import main

MakeService = Callable[..., CoordinationService]


class Balances(IStorageStore):
    """Sums per stream; applies an event once, by its position."""

    def __init__(self, name: str = "balances") -> None:
        self.store_name = name
        self.sums: dict[str, int] = {}
        self.seen: list[Event] = []
        self.troubles: list[Exception] = []

    async def apply_event(self, event: Event) -> None:
        if self.troubles:
            raise self.troubles.pop(0)
        self.seen.append(event)
        self.sums[event.stream_id] = self.sums.get(event.stream_id, 0) + event.data["amount"]

    def positions(self) -> list[int]:
        return [event.global_position for event in self.seen]


class PlainIndex:
    """A store of a plain function, which is no `IStorageStore`."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def apply_event(self, event: Event) -> None:
        self.kinds.append(event.event_type)


def deposit(stream: str, amount: int, **more: Any) -> dict[str, Any]:
    return {
        "store": "balances",
        "type": "deposited",
        "stream": stream,
        "data": {"amount": amount},
        **more,
    }


async def append(
    service: CoordinationService, name: str, *operations: dict[str, Any], **more: Any
) -> CoordinationResult:
    request = CoordinationRequest(
        name, CoordinationType.EVENT_SOURCING, ["balances"], list(operations), **more
    )
    return await service.coordinate_transaction(request)


def test_events_are_appended_projected_and_read_again(make_service: MakeService) -> None:
    async def run() -> None:
        balances, index = Balances(), PlainIndex()
        before = datetime.now(timezone.utc)
        async with make_service({"balances": balances, "index": index}) as service:
            async with service.transaction(coordination_type=CoordinationType.EVENT_SOURCING) as tx:
                tx.add("balances", "opened", stream="ada", expected_version=0, data={"amount": 0})
                tx.add("index", "deposited", stream="ada", data={"amount": 7}, metadata={"by": "x"})
            assert tx.result is not None
            assert tx.result.final_state is TransactionState.COMMITTED
            assert balances.sums == {"ada": 7}
            assert index.kinds == ["opened", "deposited"]
            events = await service.read_stream("ada")
            assert events == balances.seen
            assert [(event.version, event.global_position) for event in events] == [(1, 1), (2, 2)]
            assert events[1].data == {"amount": 7}
            assert events[1].metadata == {"by": "x"} and events[0].metadata == {}
            assert before <= events[0].recorded_at <= datetime.now(timezone.utc)
            assert await service.read_stream("ada", from_version=2) == events[1:]
            assert await service.read_stream("ada", limit=1) == events[:1]
            assert await service.read_stream("nobody") == []
            assert [await service.stream_version(name) for name in ("ada", "nobody")] == [2, 0]
            record = await service.describe(tx.result.coordination_id)
            assert record is not None and record.state is TransactionState.COMMITTED

    asyncio.run(run())


def test_a_version_that_is_not_met_aborts_and_says_both(make_service: MakeService) -> None:
    async def run() -> None:
        async with make_service({"balances": Balances()}) as service:
            await append(service, "c1", deposit("ada", 1))
            result = await append(
                service, "c2", deposit("bob", 1), deposit("ada", 2, expected_version=4)
            )
            assert result.outcome is Outcome.ABORTED
            assert result.final_state is TransactionState.ABORTED
            assert result.error_message is not None
            assert "'ada' is at version 1; version 4 was expected" in result.error_message
            assert await service.read_stream("bob") == []
            assert (await append(service, "c2", deposit("ada", 2, expected_version=1))).success

    asyncio.run(run())


def test_of_many_writers_of_one_version_one_wins(make_service: MakeService) -> None:
    async def run() -> None:
        balances = Balances()
        async with make_service({"balances": balances}) as service:
            tries = [
                append(service, f"c{index}", deposit("ada", index, expected_version=0))
                for index in range(20)
            ]
            results = await asyncio.gather(*tries)
            assert sum(result.success for result in results) == 1
            assert len(balances.seen) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({"store": "balances", "type": "t"}, "has no 'stream'"),
        (deposit("s", 1, expected_version=-1), "'expected_version'"),
        (deposit("s", 1, expected_version="2"), "'expected_version' of type str"),
        (deposit("s", 1, data=[1]), "'data' of type list"),
        (deposit("s" * 129, 1), "129 characters"),
    ],
)
def test_bad_operations_are_refused_before_anything_runs(
    make_service: MakeService, operation: dict[str, Any], words: str
) -> None:
    async def run() -> None:
        async with make_service({"balances": Balances()}) as service:
            result = await append(service, "c1", operation)
            assert result.outcome is Outcome.REFUSED
            assert result.error_message is not None and words in result.error_message

    asyncio.run(run())


def test_a_store_without_the_method_is_named(make_service: MakeService) -> None:
    class Deaf(IStorageStore):
        store_name = "balances"

    async def run() -> None:
        async with make_service({"balances": Deaf()}) as service:
            result = await append(service, "c1", deposit("ada", 1))
            assert result.outcome is Outcome.REFUSED
            assert result.error_message is not None
            assert "store 'balances' has no method apply_event()" in result.error_message

    asyncio.run(run())


def test_eventual_returns_before_the_projection(make_service: MakeService) -> None:
    async def run() -> None:
        opened = asyncio.Event()

        class Slow(Balances):
            async def apply_event(self, event: Event) -> None:
                await opened.wait()
                await super().apply_event(event)

        slow = Slow()
        async with make_service({"balances": slow}) as service:
            result = await append(service, "c1", deposit("ada", 1), consistency_level="eventual")
            assert result.success and result.final_state is TransactionState.COMMITTING
            assert slow.seen == []
            opened.set()
            ended = await service.wait_for("c1", timeout=20)
            assert ended.final_state is TransactionState.COMMITTED
            assert slow.positions() == [1]

    asyncio.run(run())


def test_a_store_that_raises_is_asked_again_in_order(make_service: MakeService) -> None:
    async def run() -> None:
        balances = Balances()
        balances.troubles = [RuntimeError("busy"), RuntimeError("still busy")]
        async with make_service({"balances": balances}) as service:
            assert (await append(service, "c1", deposit("ada", 1), deposit("ada", 2))).success
            assert balances.positions() == [1, 2]

    asyncio.run(run())


def test_a_parked_projection_waits_for_redrive_and_the_others_go_on(
    make_service: MakeService,
) -> None:
    async def run() -> None:
        balances, index = Balances(), PlainIndex()
        balances.troubles = [Permanent("no such column")]
        async with make_service({"balances": balances, "index": index}) as service:
            result = await append(service, "c1", deposit("ada", 1), timeout_seconds=1)
            assert result.success and result.final_state is TransactionState.COMMITTING
            assert result.error_message is not None and "'balances'" in result.error_message
            assert index.kinds == ["deposited"]
            [letter] = await service.dead_letters()
            assert letter.operation_id == "projection:balances"
            assert (letter.coordination_id, letter.store) == ("c1", "balances")
            assert "no such column" in letter.error_message
            by_name = {record.store_name: record for record in await service.projections()}
            assert by_name["balances"].parked_at_position == 1
            assert by_name["index"].parked_at_position is None
            with pytest.raises(InvalidRequest, match=r"parked at event 1:") as caught:
                balances.troubles = [Permanent("no such column")]
                await service.rebuild_projection("balances")
            assert caught.value.code == "request.cannot_project"
            assert await service.redrive("projection:balances")
            assert (await service.wait_for("c1", timeout=20)).success
            assert balances.sums == {"ada": 1}
            assert await service.dead_letters() == []
            assert not await service.redrive("projection:balances")

    asyncio.run(run())


def test_a_projection_is_rebuilt_while_events_are_appended(make_service: MakeService) -> None:
    async def run() -> None:
        balances = Balances()
        async with make_service({"balances": balances}) as service:
            for index in range(60):
                await append(service, f"c{index}", deposit("ada", 1), consistency_level="eventual")
            assert (await append(service, "last", deposit("ada", 1))).success
            balances.seen.clear()
            balances.sums.clear()
            rebuilding = asyncio.create_task(service.rebuild_projection("balances"))
            for index in range(20):
                await append(service, f"m{index}", deposit("bob", 1), consistency_level="eventual")
            count = await rebuilding
            assert 61 <= count <= 81
            assert (await append(service, "end", deposit("bob", 1))).success
            seen = balances.positions()
            start = len(seen) - 1 - seen[::-1].index(1)
            assert seen[start:] == list(range(1, 83))

    asyncio.run(run())


def test_events_are_iterated_over_from_a_position_and_as_they_come(
    make_service: MakeService,
) -> None:
    async def run() -> None:
        async with make_service({"balances": Balances()}) as service:
            for index in range(3):
                await append(service, f"c{index}", deposit("ada", index), deposit("bob", index))
            got: list[Event] = []

            async def follow() -> None:
                async for event in service.subscribe_events(from_position=4, stream_id="bob"):
                    got.append(event)
                    if len(got) == 2:
                        return

            following = asyncio.create_task(follow())
            await append(service, "late", deposit("ada", 9), deposit("bob", 9))
            await asyncio.wait_for(following, 20)
            assert [event.global_position for event in got] == [6, 8]
            assert [event.version for event in got] == [3, 4]

    asyncio.run(run())


def test_iterating_ends_with_the_service(make_service: MakeService) -> None:
    async def run() -> None:
        service = make_service({"balances": Balances()})
        await service.start()

        async def follow() -> None:
            async for _ in service.subscribe_events():
                raise AssertionError("nothing was appended")

        following = asyncio.create_task(follow())
        await asyncio.sleep(0)
        await service.close()
        with pytest.raises(ServiceClosed):
            await asyncio.wait_for(following, 20)

    asyncio.run(run())


def test_a_snapshot_is_kept_for_what_has_happened(make_service: MakeService) -> None:
    async def run() -> None:
        async with make_service({"balances": Balances()}) as service:
            await append(service, "c1", deposit("ada", 3), deposit("ada", 4))
            assert await service.load_snapshot("ada") is None
            assert not await service.save_snapshot("ada", 3, {"sum": 9})
            assert await service.save_snapshot("ada", 2, {"sum": 7})
            snapshot = await service.load_snapshot("ada")
            assert snapshot is not None
            assert (snapshot.stream_id, snapshot.version, snapshot.state) == ("ada", 2, {"sum": 7})
            assert snapshot.taken_at <= datetime.now(timezone.utc)
            with pytest.raises(InvalidRequest, match=r"state\['x'\]"):
                await service.save_snapshot("ada", 2, {"x": object()})
            with pytest.raises(InvalidRequest, match="not negative"):
                await service.read_stream("ada", from_version=-1)
            with pytest.raises(TypeError, match="limit"):
                await service.read_stream("ada", limit="all")  # type: ignore[arg-type]

    asyncio.run(run())


def test_what_a_service_left_unprojected_comes_with_the_next(make_service: MakeService) -> None:
    async def run() -> None:
        class Stuck(Balances):
            async def apply_event(self, event: Event) -> None:
                await asyncio.sleep(3600)

        stuck = make_service({"balances": Stuck()})
        async with stuck:
            result = await append(stuck, "c1", deposit("ada", 5), consistency_level="eventual")
            assert result.success
        balances = Balances()
        async with make_service({"balances": balances}) as service:
            assert (await service.wait_for("c1", timeout=20)).success
            assert balances.sums == {"ada": 5}

    asyncio.run(run())


def test_the_program_of_the_page_runs_and_prints_what_is_shown(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "event-sourcing.md").read_text()
    ((program, shown),) = programs_of(text)
    done = run_program(program, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)


def test_the_account_example_lets_nobody_overdraw(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "event_account.py"
    for number in (1, 2):
        done = subprocess.run(
            [sys.executable, "-W", "error", str(example), str(tmp_path / "w")],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("tellers: [False, True, True]\n")
        assert f"account-{number} 4: withdrawn 40\n" in done.stdout
        assert done.stdout.endswith("balance: 20\nlargest deposit: 80\n")


def test_the_command_line_shows_the_latest_events(
    make_service: MakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = str(tmp_path / "journal.db")

    async def run() -> None:
        async with make_service({"balances": Balances()}, journal=journal) as service:
            for index in range(5):
                await append(service, f"c{index}", deposit("ada", index), deposit("bob", index))
            assert main(["events", "tail", "--journal", journal, "--limit", "3"]) == 0

    asyncio.run(run())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["8", "9", "10"]
    assert lines[1].endswith('ada 5  deposited  {"amount": 4}')
    of_bob = ["events", "tail", "--stream", "bob", "--limit", "2", "--json", "--journal", journal]
    assert main(of_bob) == 0
    events = json.loads(capsys.readouterr().out)
    assert [(event["version"], event["data"]) for event in events] == [
        (4, {"amount": 3}),
        (5, {"amount": 4}),
    ]
    assert main([*of_bob, "--follow"]) == 2
    assert "leave one of them out" in capsys.readouterr().err
