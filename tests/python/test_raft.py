"""A cluster of three real processes: decisions stand, whoever is killed, stopped or cut off."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from fault_proxy import FaultProxy
from raft_cluster import NodeError, NodeProcess, RaftCluster, eventually, free_ports

Found = dict[str, Any]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RaftCluster]:
    with RaftCluster(tmp_path) as cluster:
        yield cluster


def _decided(node: NodeProcess, coordination_id: str) -> str | None:
    found: Found | None = node.ask("read", coordination_id)
    return None if found is None else str(found["decision"])


def _propose(node: NodeProcess, coordination_id: str, decision: str = "COMMIT") -> bool:
    return bool(node.ask("propose", coordination_id, decision, {"by": node.node_id}))


def test_the_first_decision_stands_and_every_node_says_so(cluster: RaftCluster) -> None:
    leader = cluster.leader()
    follower, other = cluster.others(leader)
    assert _propose(follower, "t1")
    assert _propose(leader, "t1"), "the same decision again"
    assert not _propose(other, "t1", "ABORT")
    assert _propose(other, "t2", "ABORT")
    seen = [node.ask("read", "t1") for node in (leader, follower, other)]
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]["decision"] == "COMMIT" and seen[0]["evidence"] == {"by": follower.node_id}
    assert seen[0]["index"] >= 1 and seen[0]["term"] >= 1 and seen[0]["decided_at"]
    assert _decided(leader, "t2") == "ABORT"
    assert _decided(leader, "unknown") is None


def test_what_a_node_tells_of_itself_is_so(cluster: RaftCluster) -> None:
    leader = cluster.leader()
    assert _propose(leader, "t1") and not _propose(leader, "t1", "ABORT")
    told = leader.ask("properties")
    assert told["state"] == "leader" and told["leader_id"] == leader.node_id
    assert told["voted_for"] == leader.node_id and told["current_term"] >= 1
    assert told["commit_index"] >= told["last_applied"] >= 1
    [entry] = [one for one in told["log_entries"] if one["coordination_id"] == "t1"]
    assert entry["decision"] == "COMMIT" and entry["evidence"] == {"by": leader.node_id}
    assert entry["index"] <= told["last_applied"] and entry["timestamp"]
    status = leader.ask("status")
    assert status["node_id"] == leader.node_id and status["state"] == "leader"
    assert sorted(member["id"] for member in status["members"]) == ["a", "b", "c"]


def test_killing_the_leader_loses_nothing_that_was_acknowledged(cluster: RaftCluster) -> None:
    first = cluster.leader()
    for number in range(20):
        assert _propose(first, f"before-{number}")
    first.kill()
    left = [node.node_id for node in cluster.others(first)]
    second = cluster.leader(left)
    assert second is not first
    assert all(_decided(second, f"before-{number}") == "COMMIT" for number in range(20))
    assert not _propose(second, "before-0", "ABORT")
    assert _propose(second, "after")
    first.start()
    assert _decided(first, "after") == "COMMIT"
    assert _propose(first, "again")


def test_a_stopped_leader_is_replaced_and_follows_when_it_goes_on(cluster: RaftCluster) -> None:
    first = cluster.leader()
    assert _propose(first, "before")
    first.stop()
    second = cluster.leader([node.node_id for node in cluster.others(first)])
    assert _propose(second, "meanwhile", "ABORT")
    first.go_on()
    assert not _propose(first, "meanwhile", "COMMIT")
    # It was away for so long that it first has to hear of the others again.
    assert first.insist("read", "meanwhile")["decision"] == "ABORT"
    assert cluster.leader().ask("properties")["state"] == "leader"


def test_a_minority_decides_nothing_and_says_so(cluster: RaftCluster) -> None:
    last = cluster.leader()
    assert _propose(last, "before")
    for node in cluster.others(last):
        node.kill()
    assert not _propose(last, "alone")
    with pytest.raises(NodeError) as caught:
        last.ask("read", "before")
    assert caught.value.kind == "NoQuorum" and caught.value.code == "consensus.no_quorum"
    assert all(node in str(caught.value) for node in set("abc") - {last.node_id})
    with pytest.raises(NodeError) as caught:
        last.ask("transfer", next(iter(set("abc") - {last.node_id})))
    assert caught.value.kind in ("NoQuorum", "NotLeader")
    cluster.start()
    eventually(lambda: last.ask("status")["trouble"] is None, "a majority is in reach")
    assert _decided(last, "before") == "COMMIT"
    assert _propose(last, "alone", "ABORT") is (_decided(last, "alone") == "ABORT")


def test_everything_is_there_after_all_were_killed(cluster: RaftCluster) -> None:
    leader = cluster.leader()
    term = leader.ask("properties")["current_term"]
    for number in range(10):
        assert _propose(leader, f"t{number}", "ABORT" if number % 2 else "COMMIT")
    for node in cluster.nodes.values():
        node.kill()
    cluster.start()
    again = cluster.leader()
    assert again.ask("properties")["current_term"] >= term
    for number in range(10):
        assert _decided(again, f"t{number}") == ("ABORT" if number % 2 else "COMMIT")


def test_a_node_without_a_majority_on_its_side_of_a_cut_decides_nothing(tmp_path: Path) -> None:
    with FaultProxy() as proxy:
        ports = dict(zip("abc", free_ports(3), strict=True))
        fronts = {node_id: proxy.before(node_id, port) for node_id, port in ports.items()}
        cluster = RaftCluster(tmp_path, fronts=fronts)
        cluster.ports.update(ports)
        for node_id, node in cluster.nodes.items():
            node.options["listen"] = f"127.0.0.1:{ports[node_id]}"
        with cluster:
            old = cluster.leader()
            others = [node.node_id for node in cluster.others(old)]
            proxy.isolate(old.node_id, others)
            new = cluster.leader(others)
            assert _propose(new, "t1", "ABORT")
            assert not _propose(old, "t1", "COMMIT")
            proxy.heal()
            cluster.leader()
            assert _decided(old, "t1") == "ABORT"


def test_nodes_come_and_go(cluster: RaftCluster) -> None:
    leader = cluster.leader()
    assert _propose(leader, "before")
    [port] = free_ports(1)
    cluster.addresses["d"] = f"d=127.0.0.1:{port}"
    with pytest.raises(NodeError, match="start it first"):
        leader.ask("add", cluster.addresses["d"])
    joining = cluster.nodes["d"] = cluster.make("d")
    joining.start()
    leader.ask("add", cluster.addresses["d"])
    assert _decided(joining, "before") == "COMMIT"
    assert _propose(joining, "joined")
    gone = cluster.others(leader)[0]
    leader.ask("remove", gone.node_id)
    gone.kill()
    members = {member["id"] for member in leader.ask("status")["members"]}
    assert members == set(cluster.nodes) - {gone.node_id}
    with pytest.raises(NodeError) as caught:
        leader.ask("add", cluster.addresses[gone.node_id])
    assert gone.node_id in str(caught.value)
    heir = next(node for node in cluster.others(leader) if node is not gone)
    leader.ask("transfer", heir.node_id)
    assert cluster.leader(members).node_id == heir.node_id
    assert _propose(leader, "after")


def test_a_single_node_grows_to_three(tmp_path: Path) -> None:
    with RaftCluster(tmp_path, ["a"]) as cluster:
        first = cluster.leader()
        assert _propose(first, "alone")
        for node_id, port in zip("bc", free_ports(2), strict=True):
            cluster.addresses[node_id] = f"{node_id}=127.0.0.1:{port}"
            cluster.nodes[node_id] = cluster.make(node_id)
            cluster.nodes[node_id].start()
            first.ask("add", cluster.addresses[node_id])
        first.kill()
        second = cluster.leader(["b", "c"])
        assert _decided(second, "alone") == "COMMIT"
        assert _propose(second, "grown")


def test_a_node_with_a_wrong_secret_is_refused_and_counted(cluster: RaftCluster) -> None:
    leader = cluster.leader()
    victim = cluster.others(leader)[0]
    victim.kill()
    victim.options["secret"] = "not the secret of this cluster"
    victim.start()
    eventually(lambda: leader.ask("status")["refused"] >= 1, "a stranger is counted")
    assert not _propose(victim, "t1")
    assert _propose(leader, "t1", "ABORT"), "the others go on"
    assert "does not know the secret" in leader.log()
    assert victim.ask("status")["calls_refused"] >= 1
    for node in (leader, victim):
        assert node.options["secret"] not in node.log(), "a secret is in the log"


def test_garbage_on_the_port_is_dropped_and_counted(cluster: RaftCluster) -> None:
    leader = cluster.leader()
    for noise in (b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"unan" + bytes([255]) * 50):
        with socket.create_connection(("127.0.0.1", cluster.ports[leader.node_id])) as stranger:
            stranger.settimeout(30)
            with contextlib.suppress(OSError):
                stranger.sendall(noise)
                assert stranger.recv(100) in (b"", b"\0"), "a stranger is told something"
    eventually(lambda: leader.ask("status")["garbage"] >= 2, "garbage is counted")
    assert _propose(leader, "t1")


class Certificates:
    """An authority that signs certificates of nodes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(folder / "authority.pem"))

    def files(self, node_id: str) -> dict[str, str]:
        """The files of a node; another authority's if they are named so."""
        made = self._authority.issue_cert(node_id)
        certificate, key = self._folder / f"{node_id}.pem", self._folder / f"{node_id}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(key))
        authority = str(self._folder / "authority.pem")
        return {"certificate": str(certificate), "key": str(key), "authority": authority}


def test_nodes_know_each_other_by_certificates_and_refuse_those_of_others(tmp_path: Path) -> None:
    ours, others = Certificates(tmp_path / "ours"), Certificates(tmp_path / "others")
    with RaftCluster(tmp_path, tls_of=ours.files) as cluster:
        leader = cluster.leader()
        assert all(_propose(node, f"by-{node.node_id}") for node in cluster.nodes.values())
        victim = cluster.others(leader)[0]
        victim.kill()
        victim.options["tls"] = others.files(victim.node_id)
        victim.start()
        eventually(lambda: leader.ask("status")["refused"] >= 1, "a stranger is counted")
        assert _propose(leader, "meanwhile")
        victim.kill()
        victim.options["tls"] = ours.files(victim.node_id)
        victim.start()
        assert _decided(victim, "meanwhile") == "COMMIT"


def test_the_data_of_another_node_or_cluster_is_refused(
    cluster: RaftCluster, tmp_path: Path
) -> None:
    leader = cluster.leader()
    victim, other = cluster.others(leader)
    victim.kill()
    other.kill()
    wrong = cluster.make(victim.node_id, data_dir=other.options["data_dir"])
    wrong.spawn()
    try:
        with pytest.raises(NodeError) as caught:
            wrong.ask("start")
        assert caught.value.kind == "ConfigError"
        assert other.node_id in str(caught.value), "it does not say whose data it is"
    finally:
        wrong.kill()


def test_the_data_and_the_nodes_of_another_cluster_are_refused(cluster: RaftCluster) -> None:
    leader = cluster.leader()
    victim = cluster.others(leader)[0]
    victim.kill()
    victim.options["cluster"] = "another"
    victim.spawn()
    with pytest.raises(NodeError) as caught:
        victim.ask("start")
    assert caught.value.kind == "ConfigError" and "another" in str(caught.value)
    victim.kill()
    victim.options["data_dir"] += "-other"
    victim.start()
    eventually(lambda: victim.ask("status")["refused"] >= 1, "a stranger is counted")
    assert _propose(leader, "t1")
