"""How long a node of three takes to come back behind many proposals, after kill -9.

From the start of its process to the answer to a read, which sees everything that the cluster has
acknowledged: the log and the snapshot are read, what was missed is fetched. Or all nodes are
killed: then until one of them has decided again, which takes an election too. That nothing is lost
is not this file's to prove (`tests/python/test_raft_faults`); a few decisions are looked at.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "python"))

from measure import Case, Row, main

from raft_cluster import NodeProcess, RaftCluster

_CALLERS = 64
_PATIENCE = 250.0
_COMPACTED = 500
_DEFAULT = 10_000


def restart(threshold: int, is_all: bool = False) -> Callable[[Case], Awaitable[Row]]:
    """One node is killed, or all are."""

    async def measure(case: Case) -> Row:
        cluster = RaftCluster(
            case.folder,
            election_timeout_ms=1000,
            heartbeat_interval_ms=100,
            log_compaction_threshold=threshold,
        )
        with cluster:
            leader = cluster.leader()
            leader.ask("flood", "n", case.count, _CALLERS, timeout=_PATIENCE)
            node = cluster.others(leader)[0]
            for each in cluster.nodes.values() if is_all else [node]:
                each.kill()
            started = time.perf_counter()
            cluster.start()
            starting = time.perf_counter() - started
            if is_all and not node.ask("propose", "again", "COMMIT", {}):
                raise AssertionError("nobody decides")
            _look(node, case.count)
            elapsed = time.perf_counter() - started
            mib = sum(each.stat().st_size for each in _files(case.folder / node.node_id)) / 2**20
        return {"seconds": elapsed, "start_seconds": starting, "mib": mib}

    return measure


def _look(node: NodeProcess, count: int) -> None:
    for number in (0, count // 2, count - 1):
        if node.ask("read", f"n-{number}") is None:
            raise AssertionError(f"decision {number} is gone")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


if __name__ == "__main__":
    main(
        {
            "unanimity": restart(_COMPACTED),
            "unanimity, whole log": restart(_DEFAULT),
            "unanimity, all nodes": restart(_COMPACTED, is_all=True),
        }
    )
