"""Random faults of a cluster of real processes: kills, stops, and links that carry nothing.

Not the load on it (`raft_load`). Invariants: every kind of fault comes once before any comes
again, so that short runs meet all of them; a fault is over when the method that made it returns;
what was done, and when, is told. The seed gives the same faults, not the same interleaving.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Protocol

from crash.raft_points import POINTS
from fault_proxy import FaultProxy
from raft_cluster import NodeDied, NodeError, NodeProcess, RaftCluster, free_ports


class Links(Protocol):
    """The network between the nodes."""

    def isolate(self, node_id: str, others: Iterable[str]) -> None:
        """Cut a node off from the others."""

    def heal(self) -> None:
        """Take every rule back."""


@contextlib.contextmanager
def proxied(
    folder: Path, script: str = "raft_node.py", **more: Any
) -> Iterator[tuple[RaftCluster, FaultProxy]]:
    """A cluster of three whose nodes reach each other through a proxy only, started."""
    with FaultProxy() as proxy:
        ports = dict(zip("abc", free_ports(3), strict=True))
        fronts = {node_id: proxy.before(node_id, port) for node_id, port in ports.items()}
        cluster = RaftCluster(folder, fronts=fronts, **more)
        for node_id, node in cluster.nodes.items():
            node.options["listen"] = f"127.0.0.1:{ports[node_id]}"
            node.script = Path(__file__).with_name(script)
        with cluster:
            yield cluster, proxy


class Faults:
    """Makes one fault after the other."""

    def __init__(self, cluster: RaftCluster, links: Links, seed: int) -> None:
        self._cluster = cluster
        self._links = links
        self._chance = random.Random(seed)
        self._never = threading.Event()
        self.told: list[str] = []
        self.kinds = [
            self.kill_one,
            self.kill_the_leader,
            self.kill_a_majority,
            self.kill_all,
            self.stop_one,
            self.stop_the_leader,
            self.isolate_one,
            self.isolate_the_leader,
            self.isolate_one_and_kill_another,
            self.stop_one_and_kill_another,
            self.kill_one_at_a_named_point,
        ]
        if isinstance(links, FaultProxy):
            self.kinds += [self.cut_two, self.lose_one_way, self.slow_down]

    def run(self, seconds: float) -> None:
        """Make faults for so long, and heal what is left."""
        until = time.monotonic() + seconds
        deck: list[Any] = []
        while time.monotonic() < until:
            if not deck:
                deck = self._chance.sample(self.kinds, len(self.kinds))
            deck.pop()()
            # Long enough for an election, mostly.
            self._last(0.2, 1.2)

    # ---- kinds ------------------------------------------------------------------------------

    def kill_one(self) -> None:
        self._killed([self._any()])

    def kill_the_leader(self) -> None:
        self._killed([self._leader()])

    def kill_a_majority(self) -> None:
        self._killed(self._chance.sample(self._nodes(), 2))

    def kill_all(self) -> None:
        self._killed(self._nodes())

    def stop_one(self) -> None:
        self._stopped(self._any())

    def stop_the_leader(self) -> None:
        self._stopped(self._leader())

    def isolate_one(self) -> None:
        self._isolated(self._any())

    def isolate_the_leader(self) -> None:
        self._isolated(self._leader())

    def isolate_one_and_kill_another(self) -> None:
        one, other = self._chance.sample(self._nodes(), 2)
        self._isolate(one)
        self._killed([other])
        self._last(0.0, 0.5)
        self._heal()

    def stop_one_and_kill_another(self) -> None:
        one, other = self._chance.sample(self._nodes(), 2)
        self._tell("stop", one)
        one.stop()
        self._killed([other])
        self._tell("go on", one)
        one.go_on()

    def kill_one_at_a_named_point(self) -> None:
        node, point = self._any(), self._chance.choice(list(POINTS))
        armed = f"{point}#{self._chance.randint(1, 30)}"
        node.kill()
        self._tell(f"kill at {armed}", node)
        node.environment = {"UNANIMITY_CRASH_AT": armed}
        node.spawn()
        node.environment = {}
        node.begin("start")
        # Some points are not reached: then it is killed at another one.
        self._last(0.5, 2.0)
        self._killed([node])

    # ---- kinds that only a proxy can make ------------------------------------------------------

    def cut_two(self) -> None:
        one, other = self._chance.sample(self._nodes(), 2)
        self._tell("cut", one, other)
        self._proxy.cut(one.node_id, other.node_id)
        self._last(0.3, 1.5)
        self._heal()

    def lose_one_way(self) -> None:
        one, other = self._chance.sample(self._nodes(), 2)
        self._tell("lose what goes from to", one, other)
        self._proxy.hold(one.node_id, other.node_id)
        self._last(0.3, 1.5)
        self._heal()

    def slow_down(self) -> None:
        nodes = self._nodes()
        for one in nodes:
            for other in nodes:
                if one is not other:
                    seconds = self._chance.uniform(0.0, 0.1)
                    self._proxy.delay(one.node_id, other.node_id, seconds)
        self._tell("slow down", *nodes)
        self._last(0.3, 1.5)
        self._heal()

    # ---- what they are made of ----------------------------------------------------------------

    @property
    def _proxy(self) -> FaultProxy:
        assert isinstance(self._links, FaultProxy)
        return self._links

    def _nodes(self) -> list[NodeProcess]:
        return list(self._cluster.nodes.values())

    def _any(self) -> NodeProcess:
        return self._chance.choice(self._nodes())

    def _leader(self) -> NodeProcess:
        """Who leads, as one of them sees it now; any, if it sees nobody."""
        with contextlib.suppress(NodeError, NodeDied, futures.TimeoutError):
            leader = self._any().ask("properties", timeout=1.0)["leader_id"]
            if leader is not None:
                return self._cluster.nodes[str(leader)]
        return self._any()

    def _killed(self, nodes: list[NodeProcess]) -> None:
        self._tell("kill", *nodes)
        for node in nodes:
            node.kill()
        self._last(0.0, 1.2)
        self._tell("start", *nodes)
        self._cluster.start()

    def _stopped(self, node: NodeProcess) -> None:
        self._tell("stop", node)
        node.stop()
        self._last(0.2, 1.5)
        self._tell("go on", node)
        node.go_on()

    def _isolated(self, node: NodeProcess) -> None:
        self._isolate(node)
        self._last(0.3, 1.5)
        self._heal()

    def _isolate(self, node: NodeProcess) -> None:
        self._tell("isolate", node)
        others = [other.node_id for other in self._nodes() if other is not node]
        self._links.isolate(node.node_id, others)

    def _heal(self) -> None:
        self._tell("heal")
        self._links.heal()

    def _last(self, least: float, most: float) -> None:
        """Let things be as they are for a while: the length of a fault, not a wait for anything."""
        self._never.wait(self._chance.uniform(least, most))

    def _tell(self, what: str, *nodes: NodeProcess) -> None:
        ids = " ".join(node.node_id for node in nodes)
        self.told.append(f"{time.monotonic():.6f}: {what} {ids}".rstrip())
