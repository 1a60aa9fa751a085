"""A program with a node of a cluster ends as itself, and a forked child has no node."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from boundary.programs import DEVELOPMENT, run

RUNS = 10
AT_ONCE = 3

NODE = """
import socket
from unanimity import RaftConsensusService

def node(**more):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return RaftConsensusService("a", [f"a=127.0.0.1:{port}"], 200, 40, data_dir="node", **more)
"""

VARIANTS: dict[str, str] = {
    "closed": """
        async def main():
            quiet_debug()
            async with node() as raft:
                assert await raft.propose_coordination_decision("t", "COMMIT", {})
        asyncio.run(main())
        """,
    "not closed": """
        async def main():
            quiet_debug()
            raft = node()
            assert await raft.propose_coordination_decision("t", "COMMIT", {})
        asyncio.run(main())
        gc.collect()
        """,
    "proposals pending": """
        async def main():
            quiet_debug()
            raft = node()
            await raft.start()
            propose = raft.propose_coordination_decision
            tasks = [asyncio.ensure_future(propose(f"t{n}", "COMMIT", {})) for n in range(100)]
            await asyncio.sleep(0)
        asyncio.run(main())
        """,
    "closed, and opened again on its data": """
        async def main():
            quiet_debug()
            for turn in range(3):
                async with node() as raft:
                    expected = None if turn == 0 else "COMMIT"
                    found = await raft.get_consensus_status("t")
                    assert (found and found["decision"]) == expected, found
                    assert await raft.propose_coordination_decision("t", "COMMIT", {})
        asyncio.run(main())
        """,
    "two loops, one after the other": """
        raft = node()
        async def first():
            assert await raft.propose_coordination_decision("t", "COMMIT", {})
        async def second():
            assert (await raft.get_consensus_status("t"))["decision"] == "COMMIT"
            await raft.close()
        asyncio.run(first())
        asyncio.run(second())
        """,
    "under a service that is not closed": """
        async def main():
            quiet_debug()
            stores = {"left": Ledger("left"), "right": Ledger("right")}
            service = CoordinationService(stores, consensus_service=node())
            (await service.coordinate_transaction(put("a"))).raise_for_state()
        asyncio.run(main())
        """,
}


def _indented(source: str) -> str:
    # `run` takes the common indentation away, and the helper has none.
    return NODE + textwrap.dedent(source)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_program_with_a_node_ends_as_itself(name: str, tmp_path: Path) -> None:
    source = _indented(VARIANTS[name])

    def once(number: int) -> tuple[int, str, str]:
        return run(source, tmp_path / str(number), DEVELOPMENT)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = list(pool.map(once, range(RUNS)))
    assert ends == [(0, "", "")] * RUNS


def test_a_forked_child_is_told_whose_the_node_is(tmp_path: Path) -> None:
    source = _indented(
        """
        async def main():
            raft = node()
            await raft.start()
            child = os.fork()
            if child == 0:
                code = 99
                try:
                    code = in_child(raft)
                finally:
                    os._exit(code)
            for number in range(50):
                assert await raft.propose_coordination_decision(f"t{number}", "COMMIT", {})
            _, status = os.waitpid(child, 0)
            print("child", os.waitstatus_to_exitcode(status))
            await raft.close()

        def in_child(raft):
            try:
                raft.current_term
            except ServiceElsewhere as error:
                assert str(os.getpid()) in str(error) and str(os.getppid()) in str(error), error
                return 0
            return 1

        asyncio.run(main())
        """
    )
    code, output, complaints = run(source, tmp_path)
    assert (code, output) == (0, "child 0\n"), complaints
