"""What a node of a cluster cannot be made with, and what it says then."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raft_cluster import SECRET, free_ports
from unanimity import ConfigError, InvalidRequest, RaftConsensusService, ServiceClosed

NODES = ["a=127.0.0.1:7001", "b=127.0.0.1:7002", "c=127.0.0.1:7003"]


def _single(**more: Any) -> RaftConsensusService:
    """A cluster of one node."""
    [port] = free_ports(1)
    more = {"election_timeout_ms": 200, "heartbeat_interval_ms": 40, **more}
    return RaftConsensusService("a", [f"a=127.0.0.1:{port}"], **more)


@pytest.mark.parametrize(
    ("node_id", "nodes", "more", "words"),
    [
        ("d", NODES, {}, "none of cluster_nodes (a, b, c)"),
        ("a", [*NODES, "a=127.0.0.1:7004"], {}, "the id a more than once"),
        ("a", [*NODES, "d=127.0.0.1:7001"], {}, "the address 127.0.0.1:7001 more than once"),
        ("a", [], {}, "cluster_nodes is empty"),
        ("a", "a=127.0.0.1:7001", {}, "cluster_nodes is a str"),
        ("a", [7001], {}, "cluster_nodes holds a int"),
        ("a", ["a=127.0.0.1"], {}, "has no port"),
        ("a", ["a=127.0.0.1:seven"], {}, "is no number"),
        ("a", ["a=:7001"], {}, "host is none"),
        ("a", ["=127.0.0.1:7001"], {}, "id is empty"),
        ("a", NODES, {"election_timeout_ms": 0}, "election_timeout_ms is 0"),
        ("a", NODES, {"heartbeat_interval_ms": 1.5}, "heartbeat_interval_ms is 1.5"),
        ("a", NODES, {"heartbeat_interval_ms": 3000}, "better five"),
        ("a", NODES, {"log_compaction_threshold": -1}, "log_compaction_threshold is -1"),
        ("a", NODES, {"secret": "too short"}, "secret has 9 bytes"),
        ("a", NODES, {"secret": 7}, "secret is a int"),
        ("a", NODES, {"tls": {"certificate": "a.pem"}}, "certificate"),
        ("a", NODES, {"tls": {}, "secret": SECRET}, "give one of them"),
        ("a", NODES, {"data_dir": ""}, "data_dir is ''"),
        ("a", NODES, {"listen": "7001"}, "has no port"),
    ],
)
def test_a_node_that_cannot_be_is_refused_with_what_to_give(
    node_id: str, nodes: Any, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        RaftConsensusService(node_id, nodes, **more)
    assert words in str(caught.value)
    assert caught.value.code.startswith("config.")
    assert "too short" not in str(caught.value)


def test_a_node_that_was_never_started_tells_that_it_knows_nothing() -> None:
    raft = RaftConsensusService("a", NODES)
    assert (raft.current_term, raft.voted_for, raft.commit_index, raft.last_applied) == (
        0,
        None,
        0,
        0,
    )
    assert (raft.state, raft.leader_id, raft.log_entries) == ("follower", None, [])
    with pytest.raises(AttributeError):
        raft.current_term = 7  # type: ignore[misc]


@contextlib.contextmanager
def _taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_named_and_the_start_can_be_tried_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        with _taken() as port:
            raft = RaftConsensusService(
                "a", [f"a=127.0.0.1:{port}"], 200, 40, data_dir=tmp_path / "a"
            )
            with pytest.raises(ConfigError) as caught:
                await raft.start()
            assert f"127.0.0.1:{port}" in str(caught.value)
            assert "stop what listens there" in str(caught.value)
            assert caught.value.code == "config.address"
        async with raft:
            assert raft.state != "shutdown"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("nodes", "more", "code", "words"),
    [
        (["a=192.0.2.1:7001"], {}, "config.insecure", "give tls or a secret"),
        (["a=127.0.0.1:7001"], {"listen": "0.0.0.0:0"}, "config.invalid", "port is 0"),
        (["a=192.0.2.1:7001"], {"secret": SECRET}, "config.address", "no such address"),
        (
            ["a=127.0.0.1:7001"],
            {"tls": {"certificate": "/no/c", "key": "/no/k", "authority": "/no/a"}},
            "config.tls",
            "/no/c",
        ),
    ],
)
def test_what_shows_at_the_start_is_named(
    nodes: list[str], more: dict[str, Any], code: str, words: str
) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigError) as caught:
            async with RaftConsensusService("a", nodes, **more):
                pass
        assert caught.value.code == code and words in str(caught.value)

    asyncio.run(scenario())


def test_a_single_node_decides_alone() -> None:
    async def scenario() -> None:
        async with _single() as raft:
            assert await raft.propose_coordination_decision("t1", "COMMIT", {"votes": ["a"]})
            assert not await raft.propose_coordination_decision("t1", "ABORT", {})
            found = await raft.get_consensus_status("t1")
            assert found is not None
            assert found["decision"] == "COMMIT" and found["evidence"] == {"votes": ["a"]}
            assert found["decided_at"].tzinfo is not None
            assert await raft.get_consensus_status("t2") is None
            [entry] = raft.log_entries
            assert (entry.coordination_id, entry.decision) == ("t1", "COMMIT")
            assert (entry.term, entry.index) == (found["term"], found["index"])
            assert raft.state == "leader" and raft.leader_id == raft.voted_for == "a"
        assert raft.state == "shutdown"
        for late in (raft.start(), raft.get_consensus_status("t1")):
            with pytest.raises(ServiceClosed):
                await late
        await raft.close()

    asyncio.run(scenario())


def test_proposals_that_cannot_be_kept_are_refused() -> None:
    async def scenario() -> None:
        async with _single() as raft:
            propose = raft.propose_coordination_decision
            with pytest.raises(InvalidRequest, match="MAYBE"):
                await propose("t1", "MAYBE", {})
            with pytest.raises(InvalidRequest, match="coordination_id"):
                await propose("", "COMMIT", {})
            with pytest.raises(InvalidRequest, match=r"evidence\['votes'\] is a set"):
                await propose("t1", "COMMIT", {"votes": {1}})
            with pytest.raises(TypeError, match="coordination_id is a int"):
                await propose(1, "COMMIT", {})  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="has no port"):
                await raft.add_node("b")

    asyncio.run(scenario())


def test_many_proposals_at_once_are_each_answered() -> None:
    async def scenario() -> None:
        async with _single() as raft:
            proposals = [
                raft.propose_coordination_decision(f"t{number % 50}", decision, {})
                for number in range(500)
                for decision in ("COMMIT", "ABORT")
            ]
            answers = await asyncio.gather(*proposals)
            # Of each id, one decision stands, and every proposal of that one was told so.
            for number in range(50):
                found = await raft.get_consensus_status(f"t{number}")
                assert found is not None
                expected = [found["decision"] == decision for decision in ("COMMIT", "ABORT")]
                for turn in range(number, 500, 50):
                    assert answers[2 * turn : 2 * turn + 2] == expected

    asyncio.run(scenario())


def test_a_cancelled_proposal_leaves_the_node_well() -> None:
    async def scenario() -> None:
        async with _single() as raft:
            task = asyncio.ensure_future(raft.propose_coordination_decision("t1", "COMMIT", {}))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await raft.propose_coordination_decision("t2", "COMMIT", {})

    asyncio.run(scenario())
