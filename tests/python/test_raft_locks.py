"""Locks in a cluster of three real node processes: contention, deaths, partitions, deadlocks.

What every lock manager must do is in the other files on locks, which also run on one node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_proxy import FaultProxy
from ledger import Ledger, request
from lock_backends import until
from raft_cluster import NodeProcess, RaftCluster, eventually, free_ports
from unanimity import (
    ConfigError,
    CoordinationService,
    LockError,
    LockType,
    RaftConsensusService,
    RaftLockManager,
)

SCRIPT = Path(__file__).with_name("raft_lock_node.py")


def _with_locks(cluster: RaftCluster) -> RaftCluster:
    for node in cluster.nodes.values():
        node.script = SCRIPT
    cluster.start()
    for node in cluster.nodes.values():
        node.insist("locks")
    return cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RaftCluster]:
    made = RaftCluster(tmp_path)
    try:
        yield _with_locks(made)
    finally:
        made.close()


def _held(node: NodeProcess, resource: str, requester: str) -> dict[str, Any]:
    answer: dict[str, Any] = node.insist("acquire", resource, requester, 30)
    assert answer["acquired"], answer
    return answer


def _waits(node: NodeProcess, resource: str, requester: str) -> bool:
    return [requester, "waiting"] in node.insist("holders", resource)


def test_a_lock_passes_between_processes_in_order_with_growing_tokens(cluster: RaftCluster) -> None:
    a, b, c = cluster.nodes.values()
    first = _held(a, "r", "ann")
    second = b.begin("acquire", "r", "bob", 60)
    eventually(lambda: _waits(c, "r", "bob"), "bob waits")
    third = c.begin("acquire", "r", "cy", 60)
    eventually(lambda: _waits(a, "r", "cy"), "cy waits")
    assert a.ask("release", first["lock_id"], "ann")
    bob = second.result(60)
    assert bob["acquired"] and bob["token"] > first["token"]
    assert not third.done()
    assert not a.ask("release", first["lock_id"], "ann")
    assert b.ask("release", bob["lock_id"], "bob")
    cy = third.result(60)
    assert cy["acquired"] and cy["token"] > bob["token"]


def test_a_lock_outlives_the_leader_and_not_its_holder(cluster: RaftCluster) -> None:
    leader = cluster.leader()
    holder, waiter = cluster.others(leader)
    held = _held(holder, "r", "ann")
    waiting = waiter.begin("acquire", "r", "bob", 120)
    eventually(lambda: _waits(waiter, "r", "bob"), "bob waits")
    leader.kill()
    cluster.leader([holder.node_id, waiter.node_id])
    assert ["ann", "held"] in waiter.insist("holders", "r")
    leader.start()
    holder.kill()
    passed = waiting.result(120)
    assert passed["acquired"] and passed["token"] > held["token"]


def test_a_deadlock_over_two_processes_refuses_the_youngest(cluster: RaftCluster) -> None:
    a, b, _ = cluster.nodes.values()
    _held(a, "left", "old")
    young = _held(b, "right", "young")
    waiting = a.begin("acquire", "right", "old", 60)
    eventually(lambda: _waits(b, "right", "old"), "old waits")
    refused = b.ask("acquire", "left", "young", 60)
    assert not refused["acquired"] and sorted(refused["cycle"]) == ["old", "young"]
    assert b.ask("release", young["lock_id"], "young")
    assert waiting.result(60)["acquired"]


def test_a_holder_in_a_minority_hears_of_its_loss_before_anybody_gets_the_lock(
    tmp_path: Path,
) -> None:
    ports = dict(zip("abc", free_ports(3), strict=True))
    with FaultProxy() as proxy:
        fronts = {node_id: proxy.before(node_id, port) for node_id, port in ports.items()}
        cluster = RaftCluster(tmp_path, fronts=fronts)
        for node_id, node in cluster.nodes.items():
            node.options["listen"] = f"127.0.0.1:{ports[node_id]}"
        try:
            _with_locks(cluster)
            # The leader too may be the one that is cut off; whoever it is, the rule is one.
            holder = cluster.leader()
            waiter, _ = cluster.others(holder)
            held = _held(holder, "r", "ann")
            waiting = waiter.begin("acquire", "r", "bob", 120)
            eventually(lambda: _waits(waiter, "r", "bob"), "bob waits")
            proxy.isolate(holder.node_id, set("abc") - {holder.node_id})
            suspended_at = holder.ask("heard", "suspended", held["lock_id"])
            lost_at = holder.ask("heard", "lost", held["lock_id"])
            passed = waiting.result(120)
            assert passed["acquired"] and passed["token"] > held["token"]
            assert suspended_at <= lost_at <= passed["at"]
            proxy.heal()
            eventually(
                lambda: holder.ask("status")["trouble"] is None, "a majority is in reach again"
            )
            assert holder.insist("holders", "r") == [["bob", "held"]]
            refused = holder.ask("acquire", "r", "ann", 0)
            assert not refused["acquired"] and "bob" in refused["error"]
        finally:
            cluster.close()


def test_a_service_takes_its_locks_in_the_cluster_and_starts_the_node(
    make_service: Callable[..., CoordinationService], ledgers: dict[str, Ledger]
) -> None:
    async def scenario() -> None:
        [port] = free_ports(1)
        raft = RaftConsensusService("a", [f"a=127.0.0.1:{port}"], 300, 60)
        manager = RaftLockManager(raft)
        async with make_service(ledgers, lock_manager=manager) as service:
            strong = request("t1", consistency_level="strong")
            assert (await service.coordinate_transaction(strong)).success
            await until(manager.list_locks, [])  # given back behind the answer
            name = next(iter(ledgers))
            async with manager.lock(name, LockType.EXCLUSIVE, "somebody"):
                more = request("t2", consistency_level="strong", timeout_seconds=0.5)
                refused = await service.coordinate_transaction(more)
                assert not refused.success and "somebody" in (refused.error_message or "")
        await raft.close()

    asyncio.run(scenario())


def test_what_is_no_node_or_does_not_run_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="raft is 7; give the RaftConsensusService"):
        RaftLockManager(7)  # type: ignore[arg-type]

    async def scenario() -> None:
        [port] = free_ports(1)
        raft = RaftConsensusService("a", [f"a=127.0.0.1:{port}"], 300, 60)
        with pytest.raises(Exception, match="the node a is not started"):
            await RaftLockManager(raft).acquire_lock("r", LockType.EXCLUSIVE, "ann")
        manager = RaftLockManager(raft)
        manager.detects_deadlocks = False
        with pytest.raises(ConfigError, match="always look for deadlocks"):
            await manager.start()
        async with RaftLockManager(raft) as locks:
            assert (await locks.acquire_lock("r", LockType.EXCLUSIVE, "ann")).acquired
            await raft.close()
            with pytest.raises(LockError):
                await locks.acquire_lock("s", LockType.EXCLUSIVE, "ann")

    asyncio.run(scenario())
