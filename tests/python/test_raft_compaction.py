"""A hundred thousand decisions and compaction: the disk stays bounded, and all of them are there.

How long a node takes to come back is measured, not judged: `benches/cases/raft_restart.py`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from raft_cluster import RaftCluster, eventually

PROPOSALS = 100_000
PARTS = 10
CALLERS = 256
COMPACTION = 50
"""Entries, of as many decisions as there are callers at most."""
LOG_MIB_MAX = 64
"""Files of 4, 8, 16 and 32 MiB follow each other; three may be there, the next made ready."""
FIRST_FILE = "00000000000000000001.log"


def mib(folder: Path) -> float:
    found = 0
    for path in folder.iterdir():
        # The node may remove it at this moment.
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size
    return found / 2**20


def names(folder: Path, ending: str) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(ending))


def test_the_disk_is_bounded_and_nothing_is_lost_over_many_decisions(tmp_path: Path) -> None:
    with RaftCluster(
        tmp_path,
        election_timeout_ms=1000,
        heartbeat_interval_ms=100,
        log_compaction_threshold=COMPACTION,
    ) as cluster:
        leader = cluster.leader()
        for part in range(PARTS):
            leader.ask("flood", f"p{part}", PROPOSALS // PARTS, CALLERS)
            for node_id in cluster.nodes:
                assert mib(tmp_path / node_id / "log") <= LOG_MIB_MAX
                # One, and the next while it is written.
                assert len(names(tmp_path / node_id / "snapshots", ".snapshot")) <= 2
        logs = [tmp_path / node_id / "log" for node_id in cluster.nodes]
        eventually(
            lambda: not any(FIRST_FILE in names(log, ".log") for log in logs),
            "what is in a snapshot is removed",
        )
        for node in cluster.nodes.values():
            node.kill()
        cluster.start()
        cluster.leader()
        for node in cluster.nodes.values():
            for part in range(PARTS):
                for number in (0, 1234, PROPOSALS // PARTS - 1):
                    assert node.insist("read", f"p{part}-{number}")["decision"] == "COMMIT"
        assert not leader.ask("propose", "p0-0", "ABORT", {})
