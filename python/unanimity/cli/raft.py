"""The verb that asks a running cluster: raft status, add-node, remove-node, transfer.

It is a client, no node: it opens no folder, and any node that is asked has the leader do it.
Invariant: a secret is read from a file, never from the command line, and printed nowhere.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path

from .._config import CoordinationConfig
from .._display import plain
from .._exceptions import ConfigError
from .._raft_client import RaftClient
from .._raft_views import ClusterStatus
from .output import UsageError, print_json, say

_TLS = ("certificate", "key", "authority")
_DONE = {
    "add-node": "{} is a voting node",
    "remove-node": "{} is no node any more",
    "transfer": "{} leads",
}


def raft_verb(arguments: Namespace) -> int:
    """Ask the cluster; 1 where it has no majority or no leader, or refuses."""
    what, subject = arguments.what, arguments.subject
    if (what == "status") != (subject is None):
        words = "status takes no NODE" if what == "status" else f"{what} needs a NODE"
        raise UsageError(words)
    if arguments.node is None and arguments.settings is None:
        raise UsageError("name a node by --node HOST:PORT, or --config FILE")
    client = client_of(arguments)
    if what == "status":
        return _status(asyncio.run(client.status()), arguments.json)
    asyncio.run(_change(client, what, subject))
    done = _DONE[what].format(plain(subject))
    if arguments.json:
        print_json({"done": what, "node": subject})
    else:
        print(done)
    return 0


async def _change(client: RaftClient, what: str, node: str) -> None:
    changes = {
        "add-node": client.add_node,
        "remove-node": client.remove_node,
        "transfer": client.transfer_leadership,
    }
    await changes[what](node)


def client_of(arguments: Namespace) -> RaftClient:
    """Take what is not given from the configuration."""
    config: CoordinationConfig | None = arguments.settings
    nodes = arguments.node or ([] if config is None else _own_first(config))
    files = {name: getattr(arguments, f"tls_{name}") for name in _TLS}
    given = [name for name in _TLS if files[name] is not None]
    if given and len(given) < len(_TLS):
        missing = ", ".join(f"--tls-{name}" for name in _TLS if name not in given)
        raise ConfigError(f"TLS needs three files; give {missing} too")
    secret: str | bytes | None = None
    if arguments.secret_file is not None:
        secret = Path(arguments.secret_file).read_bytes().rstrip(b"\r\n")
    if config is not None and secret is None and not given:
        secret = config.secret
        files = {name: getattr(config.tls, name) for name in _TLS}
    return RaftClient(
        nodes,
        secret=secret,
        tls=None if None in files.values() else files,
        cluster=None if config is None else config.cluster,
        insecure=arguments.insecure or (config is not None and config.insecure),
        timeout_seconds=arguments.timeout,
    )


def _own_first(config: CoordinationConfig) -> list[str]:
    """The nodes of the configuration, this machine's own one first."""
    nodes: list[str] = list(config.consensus.cluster_nodes or [])
    if not nodes:
        raise ConfigError("the configuration names no cluster: consensus.cluster_nodes is empty")
    own = config.node_id
    return sorted(nodes, key=lambda node: node != own and not node.startswith(f"{own}="))


def _status(status: ClusterStatus, as_json: bool) -> int:
    if as_json:
        print_json(status)
    else:
        say(str(status))
    return 0 if status.is_well else 1
