"""The journal that a cluster keeps: what a process began, another one finishes when it dies.

Real node processes on loopback, a real PostgreSQL, a folder of files that all of them have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from postgres_cluster import PostgresCluster
from raft_cluster import NodeDied, NodeProcess, RaftCluster, eventually


class Services:
    """Three nodes, each with a service over the same two stores."""

    def __init__(self, folder: Path, postgres: PostgresCluster) -> None:
        self.root = folder / "files"
        self.root.mkdir()
        self._postgres = postgres
        self._database = postgres.create_database()
        postgres.query(self._database, "CREATE TABLE facts (name text PRIMARY KEY)")
        self.cluster = RaftCluster(folder, root=str(self.root), dsn=postgres.dsn(self._database))
        for node in self.cluster.nodes.values():
            node.script = Path(__file__).with_name("raft_service_node.py")

    def start(self) -> None:
        """Start the nodes, then the services, which need a majority of them."""
        self.cluster.start()
        for answer in [node.begin("serve") for node in self.cluster.nodes.values()]:
            answer.result(60)

    def kept(self, name: str) -> tuple[bool, bool]:
        """Whether the folder has it, and whether the database does."""
        sql = f"SELECT count(*) FROM facts WHERE name = '{name}'"
        return (self.root / name).exists(), self._postgres.query(self._database, sql) == [["1"]]

    def wait_for_agreement(self, name: str, is_there: bool) -> None:
        """Wait until both have it, or neither."""
        eventually(lambda: self.kept(name) == (is_there, is_there), f"{name} agrees")

    def prepared(self) -> str:
        """How many transactions are left prepared in the database."""
        sql = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
        return self._postgres.query(self._database, sql)[0][0]

    def restart_armed(self, node: NodeProcess, point: str) -> None:
        """Start a node again, to be killed at that point."""
        node.kill()
        node.environment = {"UNANIMITY_CRASH_AT": point}
        node.start()
        node.ask("serve")
        node.environment = {}


@pytest.fixture
def services(tmp_path: Path, postgres: PostgresCluster) -> Iterator[Services]:
    services = Services(tmp_path, postgres)
    with services.cluster:
        yield services


def _outcome(node: NodeProcess, name: str) -> Any:
    found = node.ask("outcome", name)
    return found and found["outcome"]


def _wait_for_majority(node: NodeProcess) -> None:
    eventually(lambda: node.ask("status")["trouble"] is None, "a majority answers")


def _wait_for_end(node: NodeProcess, name: str) -> None:
    eventually(lambda: _outcome(node, name) in ("committed", "aborted"), f"{name} ends")


def test_every_node_knows_what_any_of_them_coordinated(services: Services) -> None:
    services.start()
    a, b, c = services.cluster.nodes.values()
    assert a.ask("put", "one")["outcome"] == "committed"
    assert b.ask("put", "two", True)["outcome"] == "aborted"
    assert services.kept("one") == (True, True) and services.kept("two") == (False, False)
    for node in (a, b, c):
        assert _outcome(node, "one") == "committed" and _outcome(node, "two") == "aborted"
        assert sorted(node.ask("history")) == ["one", "two"]
    decision = c.ask("read", "one")
    assert decision["decision"] == "COMMIT"
    assert not b.ask("propose", "one", "ABORT", {}), "the first decision stands"


@pytest.mark.parametrize(
    ("point", "outcome"),
    [
        ("before_ask:prepare:rows", "aborted"),
        ("after_ask:prepare:files", "aborted"),
        ("before_ask:commit:files", "committed"),
        ("after_ask:commit:rows", "committed"),
    ],
)
def test_the_leader_is_killed_and_another_node_finishes(
    services: Services, point: str, outcome: str
) -> None:
    services.start()
    leader = services.cluster.leader()
    services.restart_armed(leader, point)
    for node in services.cluster.others(leader):
        _wait_for_majority(node)
    services.cluster.others(leader)[0].ask("transfer", leader.node_id)
    name = _put_until_it_dies(leader)
    leader.kill()
    other = services.cluster.others(leader)[0]
    eventually(lambda: _outcome(other, name) == outcome, f"{name} is {outcome}")
    services.wait_for_agreement(name, outcome == "committed")
    eventually(lambda: services.prepared() == "0", "nothing is left prepared")


def _put_until_it_dies(node: NodeProcess) -> str:
    """Which put it died of: on a slow machine one may be aborted before it comes to the point."""
    for number in range(10):
        name = f"one-{number}"
        try:
            node.ask("put", name)
        except NodeDied:
            return name
    raise AssertionError("it never came to the point")


def test_a_deposed_owner_cannot_undo_what_another_node_finished(services: Services) -> None:
    """It is stopped behind its decision; others deliver; it goes on and finds it done."""
    services.start()
    a = services.cluster.nodes["a"]
    names = [f"n{number}" for number in range(200)]
    answers = [a.begin("put", name) for name in names]
    answers[20].result(60)
    a.stop()
    # Whether it led or not, the two others can tell without it.
    b = services.cluster.leader(among=("b", "c"))
    _wait_for_majority(b)
    open_ones = [name for name in names if _outcome(b, name) not in (None, "committed", "aborted")]
    for name in open_ones:
        _wait_for_end(b, name)
    before = {name: _outcome(b, name) for name in open_ones}
    a.go_on()
    told = [answer.result(120)["outcome"] for answer in answers]
    eventually(lambda: services.prepared() == "0", "nothing is left prepared")
    for name, outcome in zip(names, told, strict=True):
        stands = _outcome(b, name)
        assert before.get(name, stands) == stands
        assert outcome in (stands, "unknown") or outcome == "refused", (name, outcome, stands)
        services.wait_for_agreement(name, stands == "committed")
