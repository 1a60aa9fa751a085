"""W5: decisions (or locks: W4) that three nodes keep, each on its disk, beside puts into etcd.

Ours: the measuring process is one of the three nodes, as a service is; the two others are
processes of their own. It is the leader, or not (`follower`). The peer: three members of etcd 3.4,
through `aetcd`, one client and one connection. A decision is answered when a majority has synced
it, and so is a put. A lock is taken and let go of, which are two entries of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from measure import Case, Row, main, run_callers

from unanimity import LockType, RaftConsensusService, RaftLockManager

_ELECTION_MS = 1000
_HEARTBEAT_MS = 100
_IDS = ("a", "b", "c")
_SECRET = "the secret of the benchmark"


def _addresses() -> list[str]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in _IDS]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return [f"{name}=127.0.0.1:{port}" for name, port in zip(_IDS, ports, strict=True)]


def _node(name: str, nodes: list[str], folder: str) -> RaftConsensusService:
    return RaftConsensusService(
        name, nodes, _ELECTION_MS, _HEARTBEAT_MS, data_dir=f"{folder}/{name}", secret=_SECRET
    )


@contextlib.contextmanager
def _others(nodes: list[str], folder: str) -> Iterator[None]:
    """The two other nodes; they end when their input does."""
    command = [sys.executable, "-m", "cases.w5", "--node"]
    children = [
        subprocess.Popen(
            [*command, json.dumps([name, nodes, folder])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in _IDS[1:]
    ]
    try:
        yield
    finally:
        for child in children:
            child.communicate(timeout=60)


async def _serve(name: str, nodes: list[str], folder: str) -> None:
    async with _node(name, nodes, folder):
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextlib.asynccontextmanager
async def _cluster(case: Case, leader: str) -> AsyncIterator[RaftConsensusService]:
    nodes = _addresses()
    with _others(nodes, str(case.folder)):
        async with _node(_IDS[0], nodes, str(case.folder)) as node:
            # The first decision is answered when somebody leads.
            while not await node.propose_coordination_decision("begin", "COMMIT", {}):
                await asyncio.sleep(0.05)
            while node.leader_id != leader:
                with contextlib.suppress(Exception):
                    await node.transfer_leadership(leader)
                await asyncio.sleep(0.2)
            yield node


def proposals(leader: str) -> Callable[[Case], Awaitable[Row]]:
    """Decisions, each on an id of its own."""

    async def measure(case: Case) -> Row:
        async with _cluster(case, leader) as node:

            async def propose(number: int) -> None:
                name = f"{number:032x}"
                if not await node.propose_coordination_decision(name, "COMMIT", {"votes": 2}):
                    raise AssertionError(f"{name} was not taken")

            return await run_callers(case, propose)

    return measure


async def locks(case: Case) -> Row:
    """A lock for each caller, taken and let go of on the leader."""
    async with _cluster(case, _IDS[0]) as node, RaftLockManager(node) as manager:

        async def hold(number: int) -> None:
            requester = f"caller-{number}"
            key = f"key-{number % case.callers}"
            granted = await manager.acquire_lock(key, LockType.EXCLUSIVE, requester)
            if not await manager.release_lock(granted.lock_id or "", requester):
                raise AssertionError(granted.error_message)

        return await run_callers(case, hold)


async def etcd_puts(case: Case) -> Row:
    """Puts of a value of the same length, each under a key of its own."""
    aetcd: Any = importlib.import_module("aetcd")
    host, port = case.databases[0].split(":")
    async with aetcd.Client(host=host, port=int(port)) as client:

        async def put(number: int) -> None:
            await client.put(f"{number:032x}".encode(), b'{"decision":"COMMIT","votes":2}')

        return await run_callers(case, put)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--node"]:
        asyncio.run(_serve(*json.loads(sys.argv[2])))
    else:
        main(
            {
                "unanimity, leader": proposals("a"),
                "unanimity, follower": proposals("b"),
                "unanimity, locks": locks,
                "etcd, aetcd": etcd_puts,
            }
        )
