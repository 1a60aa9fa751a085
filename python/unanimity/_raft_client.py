"""Asks the nodes of a cluster, from a process that is none of them: an operator's command.

Not a node (`_raft`). A client has the cluster's secret or a certificate of its authority, asks one
node, and that node has the leader do what only a leader can. Invariants: a node that cannot be
reached is followed by the next one of the list; what may have been done is not called failed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from . import _engine
from ._arguments import checked_text
from ._bridge import bridge_for_running_loop
from ._exceptions import ConfigError, ConsensusError
from ._raft import checked_secret, checked_tls
from ._raft_views import ClusterStatus

__all__ = ["RaftClient"]

_Answer = TypeVar("_Answer")
_UNREACHABLE = "consensus.unreachable"


class RaftClient:
    """Status and changes of members, asked of the first of `nodes` that can be reached.

    A node is "host:port" or "id=host:port"; with `tls` its certificate names the host in
    the first case, and the id in the second. `secret`, `tls`, `insecure` are as a node has them;
    of `tls` any certificate of the authority will do. `timeout_seconds` bounds a question: a node
    that is added may take its time to catch up.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        secret: str | bytes | None = None,
        tls: Mapping[str, str | os.PathLike[str]] | None = None,
        cluster: str | None = None,
        insecure: bool = False,
        timeout_seconds: float = 120.0,
    ) -> None:
        """Check the arguments; nothing is asked yet."""
        if not nodes:
            raise ConfigError("no node is given; give the host:port of one or more of them")
        self._nodes = list(nodes)
        _engine.node_addresses(self._nodes)
        if tls is not None and secret is not None:
            raise ConfigError("tls and secret are given", hint="give one of them; tls says more")
        security = (checked_tls(tls), checked_secret(secret), bool(insecure))
        self._native = _engine.RaftClient(cluster, security)
        self._timeout = timeout_seconds

    async def status(self) -> ClusterStatus:
        """Tell how the node sees the cluster: its own state, the leader, the members."""
        found: dict[str, Any] = await self._ask(
            lambda bridge, future, at: self._native.status(bridge, future, at)
        )
        return ClusterStatus(found)

    async def add_node(self, node: str) -> None:
        """Take a node in, "id=host:port", which runs and has an empty folder."""
        await self._change("add", checked_text(node, "node"))

    async def remove_node(self, node_id: str) -> None:
        """Let a node go, for ever: its id is not used again."""
        await self._change("remove", checked_text(node_id, "node_id"))

    async def transfer_leadership(self, node_id: str) -> None:
        """Have another voter lead, and return when it does."""
        await self._change("transfer", checked_text(node_id, "node_id"))

    async def _change(self, verb: str, node: str) -> None:
        await self._ask(
            lambda bridge, future, at: self._native.change(bridge, future, at, (verb, node))
        )

    async def _ask(
        self,
        question: Callable[[_engine.Bridge, asyncio.Future[_Answer], tuple[str, float]], None],
    ) -> _Answer:
        unreachable: list[str] = []
        for node in self._nodes:
            future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
            question(bridge_for_running_loop(), future, (node, self._timeout))
            try:
                return await future
            except ConsensusError as error:
                if error.code != _UNREACHABLE:
                    raise
                unreachable.append(str(error))
        raise ConsensusError("; ".join(unreachable), code=_UNREACHABLE)
