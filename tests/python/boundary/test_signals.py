"""Signals: the package installs no handler, and what asyncio or the system does stays as it is."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from boundary.programs import DEVELOPMENT, line_of, run, start

PATIENCE = 60.0

RECOVERY = """
async def main():
    left, right = Ledger("left"), Ledger("right")
    async with CoordinationService({"left": left, "right": right}) as service:
        for name in ("a", "b"):
            result = await service.wait_for(name, timeout=30)
            print(name, result.final_state.value)
        assert await service.list_active_coordinations() == []
asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["prepare", "commit"])
def test_ctrl_c_surfaces_as_plain_asyncio_has_it_and_recovery_finishes(
    where: str, tmp_path: Path
) -> None:
    source = f"""
    async def main():
        quiet_debug()
        gated = Gated("left", {where!r})
        async with CoordinationService({{"left": gated, "right": Ledger("right")}}) as service:
            tasks = [asyncio.ensure_future(service.coordinate_transaction(put(name)))
                     for name in ("a", "b")]
            await gated.at.wait()
            print("pending", flush=True)
            try:
                await asyncio.gather(*tasks)
            finally:
                print("cancelled", flush=True)
                await service.close(timeout=0.2)
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise
    """
    with start(source, tmp_path, DEVELOPMENT) as process:
        line_of(process, "pending")
        process.send_signal(signal.SIGINT)
        output, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert output.split() == ["cancelled", "interrupted"]
    assert complaints.rstrip().endswith("KeyboardInterrupt")
    assert "never" not in complaints and "Warning" not in complaints, complaints
    code, output, complaints = run(RECOVERY, tmp_path)
    end = "aborted" if where == "prepare" else "committed"
    assert (code, output, complaints) == (0, f"a {end}\nb {end}\n", "")


def test_ctrl_c_without_asyncios_own_handler_stops_the_loop_at_once(tmp_path: Path) -> None:
    source = """
    async def main():
        quiet_debug()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stores = {"left": Ledger("left"), "right": Ledger("right")}
        async def work(name):
            for number in range(1_000_000):
                await service.coordinate_transaction(put(f"{name}-{number}"))
        async with CoordinationService(stores) as service:
            workers = [asyncio.ensure_future(work(n)) for n in range(20)]
            print("pending", flush=True)
            await asyncio.wait(workers)
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """
    for number in range(8):
        with start(source, tmp_path / str(number)) as process:
            line_of(process, "pending")
            process.send_signal(signal.SIGINT)
            output, complaints = process.communicate(timeout=PATIENCE)
        assert (process.returncode, output.split()) == (0, ["interrupted"]), complaints
        # The interrupt may hit any task, of which asyncio tells; the rest would be our doing.
        for complaint in ("was destroyed", "Exception ignored", "_bridge.py"):
            assert complaint not in complaints, complaints


def test_a_sigterm_without_a_handler_kills_and_recovery_finishes(tmp_path: Path) -> None:
    source = """
    async def main():
        gated = Gated("left", "commit")
        service = CoordinationService({"left": gated, "right": Ledger("right")})
        tasks = [asyncio.ensure_future(service.coordinate_transaction(put(name)))
                 for name in ("a", "b")]
        await gated.at.wait()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        print("pending", flush=True)
        await asyncio.gather(*tasks)
    asyncio.run(main())
    """
    with start(source, tmp_path) as process:
        line_of(process, "pending")
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=PATIENCE)
    assert (process.returncode, complaints) == (-signal.SIGTERM, "")
    assert run(RECOVERY, tmp_path) == (0, "a committed\nb committed\n", "")


def test_the_first_sigterm_closes_by_the_programs_handler_and_the_second_kills(
    tmp_path: Path,
) -> None:
    source = """
    async def main():
        quiet_debug()
        gated = Gated("left", "commit")
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        def end():
            loop.remove_signal_handler(signal.SIGTERM)
            ending.set()
        loop.add_signal_handler(signal.SIGTERM, end)
        async with CoordinationService({"left": gated, "right": Ledger("right")}) as service:
            tasks = [asyncio.ensure_future(service.coordinate_transaction(put(name)))
                     for name in ("a", "b")]
            await gated.at.wait()
            print("pending", flush=True)
            await ending.wait()
            print("ending", flush=True)
            if "OPEN" in os.environ:
                gated.opened.set()
            await service.close()
            print(*[task.result().final_state.value for task in tasks], flush=True)
    asyncio.run(main())
    """
    with start(source, tmp_path / "first", DEVELOPMENT, OPEN="1") as process:
        line_of(process, "pending")
        process.send_signal(signal.SIGTERM)
        output, complaints = process.communicate(timeout=PATIENCE)
    assert (process.returncode, complaints) == (0, "")
    assert output.split() == ["ending", "committed", "committed"]

    with start(source, tmp_path / "second") as process:
        line_of(process, "pending")
        process.send_signal(signal.SIGTERM)
        line_of(process, "ending")
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=PATIENCE)
    assert (process.returncode, complaints) == (-signal.SIGTERM, "")
    code, output, complaints = run(RECOVERY, tmp_path / "second")
    assert (code, output, complaints) == (0, "a committed\nb committed\n", "")
