"""A cluster in network namespaces of its own: three machines on a switch, whose cables are pulled.

Not a proxy: packets are really lost, connections live on or die as TCP has it, and nobody is told.
It takes root and a kernel that allows it; `why_not` says what is missing. Invariants: nothing of
the machine's own network is touched, because the switch is in a namespace too; after `close()` no
namespace is left.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from raft_cluster import RaftCluster

_PORT = 7800


def _ip(*words: str) -> None:
    """Run the command `ip`; what it says is in the error."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip() or done.returncode}")


def why_not() -> str | None:
    """Why there can be no namespaces here; None where there can."""
    if shutil.which("ip") is None:
        return "the command ip is not there (Debian's package iproute2)"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    try:
        with Network("ab"):
            return None
    except OSError as error:
        return f"this machine allows no network namespaces: {error}"


class Network:
    """A switch, and a namespace for each node with a cable to it."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = list(ids)
        # Another run may be under way.
        self._mark = f"unanimity-{secrets.token_hex(4)}"
        self._made: list[str] = []

    def namespace(self, node_id: str) -> str:
        """The namespace of a node."""
        return f"{self._mark}-{node_id}"

    def place(self, node_id: str) -> str:
        """Where others find a node."""
        return f"10.0.0.{self._ids.index(node_id) + 1}:{_PORT}"

    def __enter__(self) -> Network:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take it down; nobody may live in it any more."""
        while self._made:
            _ip("netns", "delete", self._made.pop())

    # ---- cables -----------------------------------------------------------------------------

    def isolate(self, node_id: str, others: Iterable[str]) -> None:
        """Pull a node's cable: it reaches nobody, whoever the others are."""
        self._cable(node_id, "down")

    def heal(self) -> None:
        """Put every cable in."""
        for node_id in self._ids:
            self._cable(node_id, "up")

    def _cable(self, node_id: str, how: str) -> None:
        """At the end of the switch, so that the node keeps its address and its routes."""
        _ip("-n", self._switch, "link", "set", f"to-{node_id}", how)

    # ---- making -----------------------------------------------------------------------------

    @property
    def _switch(self) -> str:
        return f"{self._mark}-switch"

    def _make(self) -> None:
        self._add(self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        for node_id in self._ids:
            self._connect(node_id)

    def _add(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._made.append(namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _connect(self, node_id: str) -> None:
        own, port = self.namespace(node_id), f"to-{node_id}"
        self._add(own)
        cable = ["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", own]
        _ip("-n", self._switch, *cable)
        _ip("-n", self._switch, "link", "set", port, "master", "switch", "up")
        address = self.place(node_id).partition(":")[0]
        _ip("-n", own, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", own, "link", "set", "eth0", "up")


@contextlib.contextmanager
def networked(folder: Path, **more: Any) -> Iterator[tuple[RaftCluster, Network]]:
    """A cluster of three, each node in a namespace of its own, started."""
    with Network("abc") as network:
        places = {node_id: network.place(node_id) for node_id in "abc"}
        cluster = RaftCluster(folder, places=places, **more)
        for node_id, node in cluster.nodes.items():
            node.prefix = ("ip", "netns", "exec", network.namespace(node_id))
        with cluster:
            yield cluster, network
