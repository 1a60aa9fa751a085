"""How long nobody decides when the leader of three nodes is killed.

From before the kill to the answer to a proposal that another node was asked for right behind it.
The election timeout is a second. Each run kills five leaders, one after the other.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "python"))

from measure import Case, Row, main

from raft_cluster import RaftCluster

_KILLS = 5


async def failover(case: Case) -> Row:
    """Kill one leader after the other."""
    with RaftCluster(case.folder, election_timeout_ms=1000, heartbeat_interval_ms=100) as cluster:
        times = [_one(cluster, number) for number in range(_KILLS)]
    return {"seconds": statistics.median(times), "slowest_seconds": max(times)}


def _one(cluster: RaftCluster, number: int) -> float:
    leader = cluster.leader()
    other = cluster.others(leader)[0]
    # The connections stand, and everybody is up to date.
    for node in cluster.nodes.values():
        if not node.ask("propose", f"before-{number}", "COMMIT", {}):
            raise AssertionError("nobody decides")
    started = time.perf_counter()
    leader.kill()
    # False says that no answer came in time.
    while not other.ask("propose", f"behind-{number}", "COMMIT", {}):
        pass
    elapsed = time.perf_counter() - started
    leader.start()
    return elapsed


if __name__ == "__main__":
    main({"unanimity": failover})
