"""The verb that runs one node of a cluster: node.

A process that has no stores and coordinates nothing: it keeps what services in other processes
decide. It logs to stderr. Invariants: one line on stdout says that it listens; the first SIGTERM or
Ctrl-C closes it in order (it says to the others that it leaves), a second one kills; a node that
stopped by itself ends the process with 1, so that whoever supervises it starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from argparse import Namespace

from .. import _engine
from .._config import CoordinationConfig
from .._config_parts import consensus_of
from .._display import plain
from .._exceptions import ConfigError
from .._raft import RaftConsensusService
from .output import print_json

_LOOK_EVERY_SECONDS = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def node_verb(arguments: Namespace) -> int:
    """Run the node that the file names, until it is told to end."""
    config = CoordinationConfig.from_yaml(arguments.file)
    node = consensus_of(config)
    if node is None:
        raise ConfigError(f"{arguments.file} names no cluster; give consensus.cluster_nodes")
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    place = config.listen or dict(_engine.node_addresses(node.cluster_nodes))[node.node_id]
    return asyncio.run(_run(node, config.cluster, place, arguments.json))


async def _run(node: RaftConsensusService, cluster: str, place: str, as_json: bool) -> int:
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        told.set()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, tell)
    try:
        await node.start()
        if as_json:
            print_json({"node_id": node.node_id, "cluster": cluster, "listens": place})
        else:
            print(f"node {plain(node.node_id)} of the cluster {plain(cluster)} listens at {place}")
        sys.stdout.flush()
        return await _until_told(node, told)
    finally:
        await node.close()


async def _until_told(node: RaftConsensusService, told: asyncio.Event) -> int:
    """Wait for the signal, or for the node to stop by itself, of which nobody tells."""
    while not told.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(told.wait(), _LOOK_EVERY_SECONDS)
        if node.state == "shutdown" and not told.is_set():
            trouble = (await node.status())["trouble"]
            print(f"unanimity: the node stopped: {plain(trouble)}", file=sys.stderr)
            return 1
    return 0
