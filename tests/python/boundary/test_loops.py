"""One service, one event loop: every kind of loop, several of them, and what ends with them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from boundary.programs import DEVELOPMENT, run
from boundary.stores import Gated, Plain
from ledger import Ledger, request
from unanimity import CoordinationService, ServiceElsewhere, TransactionState
from unanimity.stores import FileStore, MemoryStore, SqliteStore

Make = Callable[..., CoordinationService]

# The same work on every loop: native and Python stores, plain and suspending, some refused.
SCENARIO = """
class Suspends(Ledger):
    async def prepare_transaction(self, request):
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return await super().prepare_transaction(request)

async def main():
    quiet_debug()
    plain = Plain("plain")
    plain.opened.set()
    stores = {"left": Ledger("left"), "slow": Suspends("slow"), "plain": plain, **native()}
    names = ["left", "slow", "plain", "memory", "files"]
    async with CoordinationService(stores) as service:
        async with service.transaction() as tx:
            tx.add("rows", "execute", statement="CREATE TABLE t (n INTEGER)")
        asked = [service.coordinate_transaction(put(f"t{n}", *names)) for n in range(100)]
        results = await asyncio.gather(*asked)
        assert all(result.success for result in results)
        assert len(stores["left"].values) == len(stores["slow"].values) == len(plain.values) == 100
        refused = await service.coordinate_transaction(put("no", "left", "rows"))
        assert not refused.success
        one = asyncio.ensure_future(service.coordinate_transaction(put("again", "slow", "left")))
        await asyncio.sleep(0)
        one.cancel()
        assert (await service.wait_for("again", timeout=30)).success
        print(len(await service.history(limit=1000)))
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_ordinary_program_has_nothing_to_complain_of(loop: str, tmp_path: Path) -> None:
    code, output, complaints = run(
        SCENARIO + f"\nimport {loop}\n{loop}.run(main())\ngc.collect()\n", tmp_path, DEVELOPMENT
    )
    assert (code, complaints) == (0, "")
    assert output == "103\n"


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_two_loops_in_two_threads_each_have_a_service(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    troubles: list[BaseException] = []
    together = threading.Barrier(2)

    async def scenario(name: str) -> None:
        stores = {"left": Gated("left", "nowhere"), "memory": MemoryStore(), "slow": Slow("slow")}
        async with CoordinationService(stores, journal=tmp_path / f"{name}.db") as service:
            together.wait(30)
            for turn in range(20):
                asked = [
                    service.coordinate_transaction(
                        request(f"{turn}-{n}", "left", "slow", timeout_seconds=60)
                    )
                    for n in range(20)
                ]
                assert all(result.success for result in await asyncio.gather(*asked))

    def work(name: str) -> None:
        loop = new_loop()
        try:
            loop.run_until_complete(scenario(name))
        except BaseException as error:
            troubles.append(error)
        finally:
            loop.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not troubles


class Slow(Ledger):
    """Suspends in each prepare."""

    async def prepare_transaction(self, request: Any) -> Any:
        await asyncio.sleep(0)
        return await super().prepare_transaction(request)


def test_use_from_another_threads_loop_names_both_loops(make_service: Make) -> None:
    caught: list[ServiceElsewhere] = []

    async def elsewhere(service: CoordinationService) -> None:
        with pytest.raises(ServiceElsewhere, match="event loop") as error:
            await service.coordinate_transaction(request("t2"))
        caught.append(error.value)

    async def scenario() -> None:
        async with make_service({"left": Ledger("left"), "right": Ledger("right")}) as service:
            await asyncio.to_thread(lambda: asyncio.run(elsewhere(service)))
            (await service.coordinate_transaction(request("t1"))).raise_for_state()

    asyncio.run(scenario())
    assert caught[0].code == "service.other_loop"


def test_a_loop_that_is_closed_ends_its_service_and_the_next_goes_on_with_the_rest(
    make_service: Make,
) -> None:
    gated = Gated("left", "commit")

    async def begin() -> CoordinationService:
        service = make_service({"left": gated, "right": Ledger("right")})
        task = asyncio.ensure_future(service.coordinate_transaction(request("t1")))
        await gated.at.wait()
        task.cancel()
        return service

    async def go_on() -> None:
        async with make_service({"left": Ledger("left"), "right": Ledger("right")}) as service:
            result = await service.wait_for("t1", timeout=30)
            assert result.final_state is TransactionState.COMMITTED

    kept = asyncio.run(begin())
    asyncio.run(go_on())

    async def use() -> None:
        await kept.history()

    with pytest.raises(ServiceElsewhere):
        asyncio.run(use())


def test_stores_of_a_module_serve_one_loop_after_the_other(
    make_service: Make, tmp_path: Path
) -> None:
    plain = Plain("plain")
    plain.opened.set()
    stores: dict[str, Any] = {
        "blobs": FileStore(tmp_path / "blobs"),
        "rows": SqliteStore(tmp_path / "rows.db"),
        "cache": MemoryStore("cache"),
        "left": Ledger("left"),
        "plain": plain,
    }

    async def scenario(turn: int, closes: bool) -> None:
        service = make_service(stores)
        async with service.transaction() as tx:
            tx.add("rows", "execute", statement="CREATE TABLE IF NOT EXISTS t (n INTEGER)")
        async with service.transaction() as tx:
            tx.add("blobs", "put", key="turn", value=str(turn))
            tx.add("cache", "put", key="turn", value=turn)
            tx.add("rows", "execute", statement="INSERT INTO t VALUES (?)", parameters=[turn])
            tx.add("left", "put", key="turn", value=turn)
            tx.add("plain", "put", key="turn", value=turn)
        assert await stores["blobs"].get_text("turn") == str(turn)
        assert await stores["cache"].get("turn") == turn
        rows = await stores["rows"].fetch("SELECT count(*) AS n FROM t")
        assert rows == [{"n": turn + 1}]
        if closes:
            await service.close()

    for turn in range(6):
        asyncio.run(scenario(turn, closes=turn % 2 == 0))


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_what_belongs_to_a_loop_goes_with_it(
    runner: Callable[[Any], Any], tmp_path: Path, make_service: Make
) -> None:
    plain = Plain("plain")
    plain.opened.set()

    async def scenario(turn: int) -> None:
        service = make_service({"left": Ledger("left"), "plain": plain})
        (
            await service.coordinate_transaction(request(f"t{turn}", "left", "plain"))
        ).raise_for_state()

    def one_more(turn: int) -> int:
        runner(scenario(turn))
        return len(list(Path("/proc/self/fd").iterdir()))

    before = [one_more(turn) for turn in range(3)][-1]
    after = [one_more(turn) for turn in range(3, 23)][-1]
    assert after <= before + 2, f"{after - before} descriptors were left by 20 loops"
    names = [thread.name for thread in threading.enumerate()]
    assert sum(name.startswith("unanimity-store") for name in names) <= 2, names
