"""Decisions that several nodes keep together: a Raft cluster, of which this process is one node.

A thin face: the protocol, the log and the network are the engine's. Invariants: True is answered
only for a decision that stands on a majority's disks, for ever; a secret is in no message; an
argument that cannot be used is a ConfigError that names it and says what to give.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Any, TypeVar

from . import _engine
from ._arguments import checked_text
from ._bridge import bridge_for_running_loop
from ._consensus import IConsensusService
from ._exceptions import ConfigError, ServiceClosed
from ._prometheus import NumbersOf
from ._raft_views import ClusterStatus

__all__ = ["LogEntry", "RaftConsensusService"]

_Answer = TypeVar("_Answer")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TLS_FILES = ("certificate", "key", "authority")
_SECRET_BYTES_MIN = 16


@dataclass
class LogEntry:
    """A decision in the log of the cluster."""

    term: int
    index: int
    coordination_id: str
    decision: str
    evidence: dict[str, Any]
    timestamp: datetime


class RaftConsensusService(IConsensusService):
    """One node of a cluster that keeps decisions. First use starts it; `async with` also closes it.

    `cluster_nodes` are the nodes that the cluster begins with, "host:port" or "id=host:port", the
    same list at each of them; `node_id` is the id of this one ("host:port" where none is given).
    What the node knows is in `data_dir`; without one it is in memory, and a node that restarts has
    forgotten what it promised: for tests only.

    The nodes know each other by `secret` (at least 16 bytes, the same everywhere; who listens on
    the network can read, but not take part), or by `tls`: a mapping with the paths "certificate",
    "key" and "authority" in PEM, where the certificate's subject alternative names hold the
    node's id, or the host of a "host:port". Without both only loopback addresses are allowed,
    unless `insecure=True` says that whoever reaches the port may be a node.

    `cluster` is the name of the cluster: nodes and data of one with another name are refused.
    Clusters that share a database or a network have different ones.
    `listen`, as "host:port", is where the node listens when that is not where others find it.
    """

    def __init__(
        self,
        node_id: str,
        cluster_nodes: Sequence[str],
        election_timeout_ms: int = 5000,
        heartbeat_interval_ms: int = 1000,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        tls: Mapping[str, str | os.PathLike[str]] | None = None,
        secret: str | bytes | None = None,
        log_compaction_threshold: int = 10_000,
        cluster: str = "unanimity",
        listen: str | None = None,
        insecure: bool = False,
    ) -> None:
        """Check the arguments; nothing is opened before the first use."""
        self.node_id = checked_text(node_id, "node_id")
        self.cluster_nodes = _nodes(cluster_nodes)
        _check_members(self.node_id, self.cluster_nodes)
        self.election_timeout_ms = _whole(election_timeout_ms, "election_timeout_ms")
        self.heartbeat_interval_ms = _whole(heartbeat_interval_ms, "heartbeat_interval_ms")
        if 2 * self.heartbeat_interval_ms > self.election_timeout_ms:
            raise ConfigError(
                f"heartbeat_interval_ms is {heartbeat_interval_ms} and election_timeout_ms is "
                f"{election_timeout_ms}: a lost heartbeat would lead to an election",
                hint="give an election timeout of at least two heartbeats, better five",
            )
        threshold = _whole(log_compaction_threshold, "log_compaction_threshold")
        if tls is not None and secret is not None:
            raise ConfigError("tls and secret are given", hint="give one of them; tls says more")
        self._native = _engine.RaftNode(
            (checked_text(cluster, "cluster"), self.node_id),
            self.cluster_nodes,
            (self.election_timeout_ms, self.heartbeat_interval_ms),
            threshold,
            _path(data_dir, "data_dir"),
            (checked_tls(tls), checked_secret(secret), bool(insecure)),
            None if listen is None else checked_text(listen, "listen"),
        )
        self._closed = False
        self._numbers = NumbersOf(self._native)

    # ---- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the log, listen, and take part; repeats do nothing.

        A cluster whose majority does not run is no error: it decides as soon as it does.
        """
        if self._closed:
            raise ServiceClosed(
                f"the node {self.node_id} is closed; make another RaftConsensusService"
            )
        if not self._native.is_running():
            await self._put(lambda bridge, future: self._native.start(bridge, future))

    async def close(self) -> None:
        """Stop taking part, and close the log; repeats do nothing."""
        if self._closed:
            return
        self._closed = True
        self._numbers.close()
        await self._put(lambda bridge, future: self._native.close(bridge, future))

    async def __aenter__(self) -> RaftConsensusService:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _put(
        self, question: Callable[[_engine.Bridge, asyncio.Future[_Answer]], None]
    ) -> _Answer:
        """Put a question to the native node and wait for its answer."""
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        question(bridge_for_running_loop(), future)
        # Shielded: whoever cancels this wait does not cancel what others may wait for.
        return await asyncio.shield(future)

    async def _ask(
        self, question: Callable[[_engine.Bridge, asyncio.Future[_Answer]], None]
    ) -> _Answer:
        """As `_put`, once the node is started."""
        await self.start()
        return await self._put(question)

    def for_service(self) -> _engine.RaftNode:
        """The engine's side of it, which knows no event loop."""
        return self._native

    # ---- decisions --------------------------------------------------------------------------

    async def propose_coordination_decision(
        self, coordination_id: str, decision: str, evidence: dict[str, Any]
    ) -> bool:
        """Propose "COMMIT" or "ABORT"; True when it stands, on a majority's disks and for ever.

        False when the other decision stands already, or no majority answers in time; then
        `get_consensus_status` tells which.
        """
        return await self._ask(
            lambda bridge, future: self._native.propose(
                bridge, future, coordination_id, decision, evidence
            )
        )

    async def get_consensus_status(self, coordination_id: str) -> dict[str, Any] | None:
        """Read the standing decision; None where none stands.

        It holds "decision", "evidence", "term", "index" and "decided_at". What any node answered
        before is seen. Raises NoQuorum when no majority answers.
        """
        found: dict[str, Any] | None = await self._ask(
            lambda bridge, future: self._native.read(bridge, future, coordination_id)
        )
        if found is not None:
            found["decided_at"] = _time(found["decided_at"])
        return found

    # ---- members ----------------------------------------------------------------------------

    async def add_node(self, node: str) -> None:
        """Take a node in, "id=host:port": it catches up, then it votes. Any node may be asked.

        The new one is started with a `cluster_nodes` that names it and those that are there.
        """
        await self._ask(
            lambda bridge, future: self._native.add_node(bridge, future, checked_text(node, "node"))
        )

    async def remove_node(self, node_id: str) -> None:
        """Let a node go, for ever: its id is not used again."""
        await self._ask(
            lambda bridge, future: self._native.remove_node(
                bridge, future, checked_text(node_id, "node_id")
            )
        )

    async def transfer_leadership(self, node_id: str) -> None:
        """Have another voter lead, and return when it does."""
        await self._ask(
            lambda bridge, future: self._native.transfer_leadership(
                bridge, future, checked_text(node_id, "node_id")
            )
        )

    # ---- looking ----------------------------------------------------------------------------

    async def status(self) -> ClusterStatus:
        """Tell how this node sees the cluster: its own state, the leader, the members."""
        found: dict[str, Any] = await self._ask(
            lambda bridge, future: self._native.status(bridge, future)
        )
        return ClusterStatus(found)

    @property
    def current_term(self) -> int:
        """The term that this node is in; 0 before it is started."""
        return self._native.facts()[0]

    @property
    def voted_for(self) -> str | None:
        """For whom it voted in this term."""
        return self._native.facts()[1]

    @property
    def commit_index(self) -> int:
        """Up to where the log is on a majority's disks, as far as this node knows."""
        return self._native.facts()[2]

    @property
    def last_applied(self) -> int:
        """Up to where this node has carried the log out."""
        return self._native.facts()[3]

    @property
    def state(self) -> str:
        """One of "follower", "candidate", "leader", "learner", "shutdown"."""
        return self._native.facts()[4]

    @property
    def leader_id(self) -> str | None:
        """Who leads, as far as this node knows."""
        return self._native.facts()[5]

    @property
    def log_entries(self) -> list[LogEntry]:
        """The last decisions in the log, the oldest first."""
        return [
            LogEntry(term, index, coordination_id, decision, evidence, _time(decided_at))
            for term, index, coordination_id, decision, evidence, decided_at in (
                self._native.recent_decisions()
            )
        ]

    def __repr__(self) -> str:
        return f"RaftConsensusService({self.node_id!r}, {self.state})"


def _time(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _nodes(cluster_nodes: object) -> list[str]:
    if isinstance(cluster_nodes, (str, bytes)) or not isinstance(cluster_nodes, Sequence):
        raise ConfigError(
            f"cluster_nodes is a {type(cluster_nodes).__name__}",
            hint='give a list of "host:port" or "id=host:port"',
        )
    for node in cluster_nodes:
        if not isinstance(node, str):
            raise ConfigError(
                f"cluster_nodes holds a {type(node).__name__}",
                hint='give a list of "host:port" or "id=host:port"',
            )
    return list(cluster_nodes)


def _check_members(node_id: str, cluster_nodes: list[str]) -> None:
    members = _engine.node_addresses(cluster_nodes)
    ids = [member_id for member_id, _ in members]
    places = [place for _, place in members]
    for what, values in (("id", ids), ("address", places)):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ConfigError(
                f"cluster_nodes has the {what} {', '.join(twice)} more than once",
                hint=f"give each node an {what} of its own",
            )
    if node_id not in ids:
        raise ConfigError(
            f"node_id is {node_id!r}, which is none of cluster_nodes ({', '.join(ids)})",
            hint="give one of these, or add this node to the list of every node",
        )


def _whole(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**31:
        raise ConfigError(f"{name} is {value!r}; give a whole number from 1")
    return value


def _path(value: object, name: str) -> str | None:
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(f"{name} is {value!r}; give a path")
    # An absolute path, so that a later change of the working directory changes nothing.
    return os.path.abspath(path)  # noqa: PTH100


def checked_tls(tls: object) -> tuple[str, str, str] | None:
    """Give certificate, key and authority as absolute paths."""
    if tls is None:
        return None
    if not isinstance(tls, Mapping) or set(tls) != set(_TLS_FILES):
        raise ConfigError(
            "tls does not name the three files that it needs",
            hint='give a mapping with the paths "certificate", "key" and "authority"',
        )
    certificate, key, authority = (_path(tls[name], f"tls[{name!r}]") for name in _TLS_FILES)
    if certificate is None or key is None or authority is None:
        raise ConfigError("tls has None for a file; give a path for each")
    return certificate, key, authority


def checked_secret(secret: object) -> bytes | None:
    """Give the secret as bytes; it is in no message."""
    if secret is None:
        return None
    if not isinstance(secret, (str, bytes)):
        raise ConfigError(f"secret is a {type(secret).__name__}; give a str or bytes")
    given = secret.encode() if isinstance(secret, str) else secret
    if len(given) < _SECRET_BYTES_MIN:
        # Not shown.
        raise ConfigError(
            f"secret has {len(given)} bytes",
            hint=f"give at least {_SECRET_BYTES_MIN}, such as those of secrets.token_urlsafe(32)",
        )
    return given
