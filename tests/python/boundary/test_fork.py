"""A fork takes no service along: the child is told so, and can make its own; the parent goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from boundary.programs import DEVELOPMENT, line_of, run, start

FORK_IN_A_COROUTINE = """
async def parent():
    stores = {"left": Ledger("left"), "memory": MemoryStore()}
    async with CoordinationService(stores) as service:
        (await service.coordinate_transaction(put("a", "left", "memory"))).raise_for_state()
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = in_child(service, stores)
            finally:
                sys.stdout.flush()
                os._exit(code)
        for number in range(50):
            result = await service.coordinate_transaction(put(f"p{number}", "left", "memory"))
            assert result.success, result
        _, status = os.waitpid(child, 0)
        for number in range(50):
            result = await service.coordinate_transaction(put(f"q{number}", "left", "memory"))
            assert result.success, result
        print("child", os.waitstatus_to_exitcode(status))

def in_child(service, stores):
    # The running loop is the parent's; CPython forgets it in the child.
    return asyncio.run(child(service, stores))
"""


def test_the_child_is_told_both_processes_and_makes_a_service_of_its_own(tmp_path: Path) -> None:
    code, output, complaints = run(
        FORK_IN_A_COROUTINE
        + """
async def child(service, stores):
    for use in (service.start, service.close, service.history, service.recover):
        try:
            await use()
        except ServiceElsewhere as error:
            assert str(os.getpid()) in str(error) and str(os.getppid()) in str(error), error
            assert error.code == "service.forked"
        else:
            raise AssertionError(use)
    try:
        await stores["memory"].get("k")
    except ServiceElsewhere as error:
        assert "'memory'" in str(error) and str(os.getppid()) in str(error), error
    else:
        raise AssertionError("a store that the parent opened")
    own = {"left": Ledger("left"), **native()}
    async with CoordinationService(own, journal="child.db") as mine:
        (await mine.coordinate_transaction(put("c", "left", "memory", "files"))).raise_for_state()
        assert await own["files"].get_text("c") == "1"
    return 7

asyncio.run(parent())
""",
        tmp_path,
    )
    assert (code, output, complaints) == (0, "child 7\n", "")


def test_a_child_that_ends_in_order_closes_nothing_of_its_parents(tmp_path: Path) -> None:
    code, output, complaints = run(
        """
        loop = asyncio.new_event_loop()
        stores = {"left": Ledger("left"), **native()}
        service = CoordinationService(stores)

        def change(name):
            asked = service.coordinate_transaction(put(name, "left", "memory", "files"))
            loop.run_until_complete(asked).raise_for_state()

        change("a")
        if (child := os.fork()) == 0:
            del service, stores
            gc.collect()
            sys.exit(7)
        change("b")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        change("c")
        """,
        tmp_path,
    )
    assert (code, output, complaints) == (0, "7\n", "")


def test_multiprocessing_starts_workers_either_way(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(
        """
import asyncio
from ledger import Ledger, request
from unanimity import CoordinationService

async def change(name):
    # A busy machine makes slow callbacks, which debug mode would tell of.
    asyncio.get_running_loop().slow_callback_duration = 3600.0
    stores = {"left": Ledger("left"), "right": Ledger("right")}
    async with CoordinationService(stores, journal=f"{name}.db") as service:
        return (await service.coordinate_transaction(request(name))).success

def work(name):
    return asyncio.run(change(name))
""",
        encoding="utf-8",
    )
    code, output, complaints = run(
        """
        import multiprocessing
        from worker import work

        if __name__ == "__main__":
            assert work("parent")
            for way in ("fork", "spawn"):
                with multiprocessing.get_context(way).Pool(2) as pool:
                    print(way, pool.map(work, [f"{way}{n}" for n in range(6)]))
            assert work("parent again")
        """,
        tmp_path,
        DEVELOPMENT,
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])]),
    )
    assert (code, complaints) == (0, "")
    assert output.splitlines() == [f"{way} {[True] * 6}" for way in ("fork", "spawn")]


def test_a_living_child_does_not_keep_a_dead_parents_journal_from_being_adopted(
    tmp_path: Path,
) -> None:
    parent_program = start(
        """
        async def main():
            gated = Gated("left", "commit")
            service = CoordinationService({"left": gated, "files": FileStore("files")})
            task = asyncio.ensure_future(
                service.coordinate_transaction(put("a", "left", "files")))
            await gated.at.wait()
            if os.fork() == 0:
                signal.pause()
                os._exit(0)
            print("forked", flush=True)
            await task
        asyncio.run(main())
        """,
        tmp_path,
    )
    with parent_program as parent:
        line_of(parent, "forked")
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        (child,) = map(int, children)
        try:
            parent.kill()
            parent.wait(30)
            os.kill(child, 0)
            code, output, complaints = run(
                """
                async def main():
                    left = Ledger("left")
                    async with CoordinationService({"left": left, "files": FileStore("files")}
                                                   ) as service:
                        result = await service.wait_for("a", timeout=60)
                        print(result.final_state.value, left.asked("commit"))
                asyncio.run(main())
                """,
                tmp_path,
            )
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)
    assert (code, output.strip(), complaints) == (0, "committed 1", "")
