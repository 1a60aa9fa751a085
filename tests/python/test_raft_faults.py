"""Real nodes under load while they are killed, stopped and cut off: every promise is kept.

What the clients were told is judged as a history (`linearizability`), and held against what every
node says in the end. The seed is printed and can be given as SEED; it gives the same faults, and
the threads of a run are not in its power. UNANIMITY_FAULT_SECONDS is how long faults are made:
`make faults` gives a minute.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from fault_proxy import FaultProxy
from raft_cluster import NodeError, NodeProcess, RaftCluster, eventually
from raft_faults import Faults, Links, proxied
from raft_load import Load
from raft_namespaces import networked, why_not

SECONDS = float(os.environ.get("UNANIMITY_FAULT_SECONDS") or 15)
COMPACTION = 50
"""Entries from one snapshot to the next: so few that nodes fall behind it all the time."""


def seed() -> int:
    chosen = int(os.environ.get("SEED") or random.randrange(1_000_000))
    print(f"SEED={chosen}")
    return chosen


def assert_promises_hold_under_faults(cluster: RaftCluster, links: Links, seconds: float) -> None:
    chosen = seed()
    cluster.leader()
    faults = Faults(cluster, links, chosen)
    try:
        with Load(cluster.nodes, chosen) as load:
            faults.run(seconds)
        load.judge(cluster)
    except BaseException:
        print("\n".join(faults.told))
        raise
    decided, calls = len(load.acknowledged), len(load.history)
    print(f"{len(faults.told)} faults and ends of faults, {calls} calls, {decided} acknowledged")
    assert decided > 10, "nearly nothing was decided"


def test_every_promise_is_kept_under_kills_stops_and_partitions(tmp_path: Path) -> None:
    with proxied(tmp_path, log_compaction_threshold=COMPACTION) as (cluster, proxy):
        assert_promises_hold_under_faults(cluster, proxy, SECONDS)


def test_every_promise_is_kept_when_cables_are_pulled_in_real_networks(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    with networked(tmp_path, log_compaction_threshold=COMPACTION) as (cluster, network):
        assert_promises_hold_under_faults(cluster, network, SECONDS)


def test_a_node_whose_cable_is_pulled_decides_nothing_and_says_so(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    with networked(tmp_path) as (cluster, network):
        old = cluster.leader()
        others = [node.node_id for node in cluster.others(old)]
        network.isolate(old.node_id, others)
        new = cluster.leader(others)
        assert new.ask("propose", "t1", "ABORT", {})
        assert not old.ask("propose", "t1", "COMMIT", {})
        with pytest.raises(NodeError) as caught:
            old.ask("read", "t1")
        assert caught.value.kind == "NoQuorum" and new.node_id in str(caught.value)
        network.heal()
        cluster.leader()
        assert old.insist("read", "t1")["decision"] == "ABORT"


def test_a_rolling_restart_under_load_loses_nothing(tmp_path: Path) -> None:
    with RaftCluster(tmp_path, log_compaction_threshold=COMPACTION) as cluster:
        chosen = seed()
        cluster.leader()
        with Load(cluster.nodes, chosen) as load:
            for node in cluster.nodes.values():
                restart_under(load, node)
        load.judge(cluster)
        print(f"{len(load.history)} calls, {len(load.acknowledged)} acknowledged")


def restart_under(load: Load, node: NodeProcess) -> None:
    """Close a node in peace, see that the others go on, and start it again."""
    node.ask("close")
    node.kill()
    before = len(load.acknowledged)
    eventually(lambda: len(load.acknowledged) > before + 5, "the others go on")
    node.start()
    key, value = load.latest()
    eventually(lambda: node.ask("status")["trouble"] is None, "it has a majority")
    assert node.insist("read", key)["decision"] == value


def test_nodes_that_forget_what_they_promised_are_caught(tmp_path: Path) -> None:
    """The load and the judge find it where a promise is broken: here, by nodes without a disk."""
    with RaftCluster(tmp_path, data_dir=None) as cluster, FaultProxy() as links:
        cluster.leader()
        faults = Faults(cluster, links, seed())
        with Load(cluster.nodes, seed()) as load:
            eventually(lambda: len(load.acknowledged) > 10, "something is promised")
            faults.kill_all()
        with pytest.raises(AssertionError, match="was acknowledged as"):
            load.judge(cluster)


def test_nodes_that_answer_from_what_they_have_are_caught(tmp_path: Path) -> None:
    """The judge finds reads that ask nobody: one that is cut off does not know what was decided."""
    with proxied(tmp_path, script="raft_stale_node.py") as (cluster, proxy):
        lonely = cluster.others(cluster.leader())[0]
        with Load(cluster.nodes, seed()) as load:
            proxy.isolate(lonely.node_id, set(cluster.nodes) - {lonely.node_id})
            before = len(load.acknowledged)
            eventually(lambda: len(load.acknowledged) > before + 10, "the others go on")
            proxy.heal()
        with pytest.raises(AssertionError, match="no order explains"):
            load.judge(cluster)
