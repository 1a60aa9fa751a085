"""A service's bus hears that its node has no majority in reach, once, and that it is over, once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fault_proxy import FaultProxy
from raft_cluster import NodeProcess, RaftCluster, free_ports

SCRIPT = Path(__file__).with_name("raft_bus_node.py")


class Cut:
    """Three nodes with services, and what is between them."""

    def __init__(self, cluster: RaftCluster, proxy: FaultProxy) -> None:
        self.cluster, self.proxy = cluster, proxy


def _serving(tmp_path: Path, proxy: FaultProxy, **more: Any) -> RaftCluster:
    ports = dict(zip("abc", free_ports(3), strict=True))
    fronts = {node_id: proxy.before(node_id, port) for node_id, port in ports.items()}
    cluster = RaftCluster(tmp_path, fronts=fronts, **more)
    cluster.ports.update(ports)
    for node_id, node in cluster.nodes.items():
        node.options["listen"] = f"127.0.0.1:{ports[node_id]}"
        node.script = SCRIPT
    return cluster


@pytest.fixture(params=["cluster keeps the journal", "a journal of its own"])
def cut(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cut]:
    with FaultProxy() as proxy:
        cluster = _serving(tmp_path, proxy)
        if request.param == "a journal of its own":
            for node_id, node in cluster.nodes.items():
                node.options["journal"] = str(tmp_path / f"{node_id}.db")
        with cluster:
            cluster.leader()
            for node in cluster.nodes.values():
                node.ask("serve")
            yield Cut(cluster, proxy)


def _told(node: NodeProcess) -> list[str]:
    kinds = [event["type"] for event in node.ask("events")]
    return [kind for kind in kinds if kind.startswith("PARTITION")]


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_one_that_is_cut_off_tells_it_once_and_its_end_once(cut: Cut, role: str) -> None:
    leader = cut.cluster.leader()
    alone = leader if role == "leader" else cut.cluster.others(leader)[0]
    others = cut.cluster.others(alone)
    cut.proxy.isolate(alone.node_id, [other.node_id for other in others])
    events = alone.ask("hear", "PARTITION_DETECTED")
    (detected,) = (event for event in events if event["type"] == "PARTITION_DETECTED")
    assert detected["node_id"] == alone.node_id
    assert sorted(detected["unreachable"]) == sorted(other.node_id for other in others)
    assert datetime.fromisoformat(detected["detected_at"]).utcoffset() == timedelta(0)
    cut.cluster.leader([other.node_id for other in others])
    cut.proxy.heal()
    events = alone.ask("hear", "PARTITION_HEALED")
    (healed,) = (event for event in events if event["type"] == "PARTITION_HEALED")
    assert (healed["node_id"], healed["detected_at"]) == (alone.node_id, detected["detected_at"])
    assert healed["healed_at"] > healed["detected_at"]
    assert _told(alone) == ["PARTITION_DETECTED", "PARTITION_HEALED"]


def test_the_last_that_goes_on_tells_who_is_missing(cut: Cut) -> None:
    leader = cut.cluster.leader()
    others = cut.cluster.others(leader)
    for other in others:
        other.stop()
    events = leader.ask("hear", "PARTITION_DETECTED")
    (detected,) = (event for event in events if event["type"] == "PARTITION_DETECTED")
    assert sorted(detected["unreachable"]) == sorted(other.node_id for other in others)
    for other in others:
        other.go_on()
    leader.ask("hear", "PARTITION_HEALED")
    assert _told(leader) == ["PARTITION_DETECTED", "PARTITION_HEALED"]
