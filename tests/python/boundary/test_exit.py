"""However a program ends, it ends as itself: with its own return code, and nothing to complain.

Every variant runs many times, some at once, because what goes wrong at exit does so rarely.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from boundary.programs import DEVELOPMENT, run

RUNS = 20
AT_ONCE = 3

VARIANTS: dict[str, tuple[int, str]] = {
    "closed": (
        0,
        """
        async def main():
            quiet_debug()
            async with CoordinationService({**native(), "left": Ledger("left")}) as service:
                result = await service.coordinate_transaction(put("a", "memory", "left"))
                result.raise_for_state()
            assert repr(service).endswith("closed)")
        asyncio.run(main())
        """,
    ),
    "not closed": (
        0,
        """
        async def main():
            quiet_debug()
            service = CoordinationService({"left": Ledger("left"), "right": Ledger("right")})
            (await service.coordinate_transaction(put("a"))).raise_for_state()
        asyncio.run(main())
        """,
    ),
    "prepares pending in python": (
        0,
        """
        async def main():
            quiet_debug()
            gated = Gated("left")
            service = CoordinationService({"left": gated, "right": Ledger("right")})
            asked = [service.coordinate_transaction(put(f"t{n}")) for n in range(20)]
            tasks = [asyncio.ensure_future(one) for one in asked]
            await gated.at.wait()
        asyncio.run(main())
        """,
    ),
    "commits pending in python": (
        0,
        """
        async def main():
            quiet_debug()
            gated = Gated("left", "commit")
            service = CoordinationService({"left": gated, "right": Ledger("right")})
            asked = [service.coordinate_transaction(put(f"t{n}")) for n in range(20)]
            tasks = [asyncio.ensure_future(one) for one in asked]
            await gated.at.wait()
        asyncio.run(main())
        """,
    ),
    "native calls pending": (
        0,
        """
        async def main():
            quiet_debug()
            service = CoordinationService(native())
            await service.start()
            asked = [service.coordinate_transaction(put(f"t{n}", "memory", "files")) for n in
                     range(50)]
            tasks = [asyncio.ensure_future(one) for one in asked]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        asyncio.run(main())
        """,
    ),
    "a thread pending": (
        0,
        """
        async def main():
            quiet_debug()
            plain = Plain("left")
            service = CoordinationService({"left": plain, "right": Ledger("right")})
            task = asyncio.ensure_future(service.coordinate_transaction(put("a")))
            while not plain.at.is_set():
                await asyncio.sleep(0.001)
            plain.opened.set()
        asyncio.run(main())
        """,
    ),
    "an exception in main": (
        1,
        """
        async def main():
            quiet_debug()
            service = CoordinationService({"left": Gated("left"), "right": Ledger("right")})
            task = asyncio.ensure_future(service.coordinate_transaction(put("a")))
            await service.stores["left"].at.wait()
            raise LookupError("on purpose")
        asyncio.run(main())
        """,
    ),
    "sys.exit inside": (
        3,
        """
        async def main():
            quiet_debug()
            async with CoordinationService({"left": Ledger("left")}) as service:
                await service.coordinate_transaction(put("a", "left"))
                sys.exit(3)
        asyncio.run(main())
        """,
    ),
    "os._exit inside": (
        4,
        """
        async def main():
            quiet_debug()
            service = CoordinationService({"left": Gated("left"), "right": Ledger("right")})
            task = asyncio.ensure_future(service.coordinate_transaction(put("a")))
            await service.stores["left"].at.wait()
            os._exit(4)
        asyncio.run(main())
        """,
    ),
    "two runs, services kept": (
        0,
        """
        kept = []
        stores = native()
        async def main(name):
            quiet_debug()
            service = CoordinationService(stores)
            kept.append(service)
            (await service.coordinate_transaction(put(name, "memory", "files"))).raise_for_state()
            assert await stores["files"].get_text(name) == "1"
        asyncio.run(main("a"))
        asyncio.run(main("b"))
        """,
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_program_ends_with_its_own_return_code_and_in_silence(
    variant: str, tmp_path: Path
) -> None:
    code, source = VARIANTS[variant]

    def one(number: int) -> str | None:
        flags = DEVELOPMENT if number % 4 == 0 else ()
        got, _, complaints = run(source, tmp_path / str(number), flags)
        # An exception of the program's own is told by Python; anything else is a complaint.
        is_silent = not complaints or (
            code == 1
            and complaints.count("Traceback") == 1
            and complaints.endswith("LookupError: on purpose\n")
        )
        return None if got == code and is_silent else f"run {number}: {got}\n{complaints[-2000:]}"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = [trouble for trouble in pool.map(one, range(RUNS)) if trouble]
    assert not wrong, f"{len(wrong)} of {RUNS} ended otherwise:\n" + "\n".join(wrong[:3])
