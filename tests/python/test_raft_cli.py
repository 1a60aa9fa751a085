"""`unanimity raft ...` and `unanimity node FILE`, against real nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raft_cluster import SECRET, RaftCluster, eventually, free_ports

UNANIMITY = [sys.executable, "-m", "unanimity"]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*UNANIMITY, *arguments], capture_output=True, text=True, timeout=180, check=False
    )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RaftCluster]:
    with RaftCluster(tmp_path) as cluster:
        cluster.leader()
        yield cluster


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return str(path)


def _place(cluster: RaftCluster, node_id: str) -> str:
    return cluster.addresses[node_id].partition("=")[2]


def test_any_node_tells_the_status_and_has_members_changed(
    cluster: RaftCluster, secret: str
) -> None:
    leader = cluster.leader()
    follower = cluster.others(leader)[0]
    ask = ["--node", _place(cluster, follower.node_id), "--secret-file", secret]
    shown = _run("raft", "status", *ask)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"leader     {leader.node_id}" in shown.stdout and "voter" in shown.stdout
    status = json.loads(_run("raft", "status", *ask, "--json").stdout)
    assert (status["node_id"], status["leader_id"]) == (follower.node_id, leader.node_id)
    assert len(status["members"]) == 3 and status["trouble"] is None

    moved = _run("raft", "transfer", follower.node_id, *ask)
    assert (moved.returncode, moved.stdout) == (0, f"{follower.node_id} leads\n")
    assert cluster.leader().node_id == follower.node_id
    [port] = free_ports(1)
    cluster.addresses["d"] = f"d=127.0.0.1:{port}"
    early = _run("raft", "add-node", cluster.addresses["d"], *ask)
    assert early.returncode == 1 and "start it first" in early.stderr
    cluster.nodes["d"] = cluster.make("d")
    cluster.nodes["d"].start()
    added = _run("raft", "add-node", cluster.addresses["d"], *ask, "--json")
    assert json.loads(added.stdout) == {"done": "add-node", "node": cluster.addresses["d"]}
    removed = _run("raft", "remove-node", leader.node_id, *ask)
    assert removed.returncode == 0, removed.stderr
    status = json.loads(_run("raft", "status", *ask, "--json").stdout)
    members = {member["id"] for member in status["members"]}
    assert members == set(cluster.nodes) - {leader.node_id}


def test_without_a_majority_the_status_is_bad_and_says_so(
    cluster: RaftCluster, secret: str
) -> None:
    left, *gone = cluster.nodes.values()
    for node in gone:
        node.kill()
    ask = ["--node", _place(cluster, gone[0].node_id), "--node", _place(cluster, left.node_id)]
    shown: list[subprocess.CompletedProcess[str]] = []

    def is_bad() -> bool:
        shown[:] = [_run("raft", "status", *ask, "--secret-file", secret)]
        return shown[0].returncode == 1 and "trouble" in shown[0].stdout

    eventually(is_bad, "the node that is left has noticed")
    assert f"node       {left.node_id}" in shown[0].stdout


def test_who_has_no_right_to_ask_is_refused(cluster: RaftCluster, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not the secret of this cluster")
    node = _place(cluster, "a")
    for arguments in (["--secret-file", str(wrong)], []):
        refused = _run("raft", "status", "--node", node, *arguments)
        assert refused.returncode == 1 and "refuses" in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
    assert "not the secret" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["status"], 2, "--node HOST:PORT"),
        (["status", "a", "--node", "127.0.0.1:1"], 2, "takes no NODE"),
        (["remove-node", "--node", "127.0.0.1:1"], 2, "needs a NODE"),
        (["status", "--node", "127.0.0.1"], 1, "has no port"),
        (["status", "--node", "127.0.0.1:1"], 1, "unreachable"),
        (["status", "--node", "10.0.0.1:7800"], 1, "give tls or a secret"),
        (["status", "--node", "127.0.0.1:1", "--tls-key", "k"], 1, "--tls-certificate"),
        (["status", "--node", "127.0.0.1:1", "--secret-file", "/nowhere"], 1, "/nowhere"),
    ],
)
def test_what_cannot_be_asked_says_what_to_give(
    arguments: list[str], code: int, words: str
) -> None:
    refused = _run("raft", *arguments)
    assert refused.returncode == code and words in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr


def _file(folder: Path, **more: Any) -> tuple[Path, int]:
    [port] = free_ports(1)
    settings = {
        "node_id": "a",
        "data_dir": str(folder / "data"),
        "secret": SECRET,
        "consensus": {
            "cluster_nodes": [f"a=127.0.0.1:{port}"],
            "election_timeout_ms": 500,
            "heartbeat_interval_ms": 100,
        },
        **more,
    }
    path = folder / "node.yaml"
    path.write_text(json.dumps({"coordination_service": settings}))
    return path, port


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_says_that_it_listens_and_closes_when_it_is_told(
    tmp_path: Path, number: signal.Signals
) -> None:
    path, port = _file(tmp_path)
    with subprocess.Popen(
        [*UNANIMITY, "node", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as node:
        assert node.stdout is not None
        line = node.stdout.readline()
        assert line == f"node a of the cluster unanimity listens at 127.0.0.1:{port}\n"
        status = _run("raft", "status", "--config", str(path), "--json")
        assert json.loads(status.stdout)["node_id"] == "a"
        os.kill(node.pid, number)
        _, said = node.communicate(timeout=60)
    assert node.returncode == 0, said
    assert "Traceback" not in said and SECRET not in said


def test_a_file_that_makes_no_node_is_bad(tmp_path: Path) -> None:
    missing = _run("node", str(tmp_path / "nothing.yaml"))
    assert missing.returncode == 1 and "nothing.yaml" in missing.stderr
    path, _ = _file(tmp_path, node_id="b")
    assert _run("node", str(path)).returncode == 1
    path, _ = _file(tmp_path, consensus={})
    none = _run("node", str(path))
    assert none.returncode == 1 and "cluster_nodes" in none.stderr
    assert _run("node").returncode == 2
