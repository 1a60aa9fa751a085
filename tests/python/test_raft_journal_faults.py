"""Services over a journal that a cluster keeps, under random faults: all stores agree in the end.

Real node processes behind a proxy, a real PostgreSQL, a folder of files that all of them have.
The seed is printed and can be given as SEED; UNANIMITY_FAULT_SECONDS is how long faults are made.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

from postgres_cluster import PostgresCluster
from raft_cluster import PATIENCE, NodeDied, NodeError, NodeProcess, RaftCluster, eventually
from raft_faults import Faults, proxied

SECONDS = float(os.environ.get("UNANIMITY_FAULT_SECONDS") or 10)
CLIENTS = 4
COMPACTION = 100
ANSWER_SECONDS = 3.0
ENDED = ("committed", "aborted")


class Puts:
    """Clients that have names put into both stores, or into neither, and hear what came of it."""

    def __init__(self, cluster: RaftCluster, seed: int) -> None:
        self.told: dict[str, str | None] = {}
        """The outcome of each name; None where no answer came."""
        self.asked: list[futures.Future[Any]] = []
        self._nodes = list(cluster.nodes.values())
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(random.Random(f"{seed} {number}"),))
            for number in range(CLIENTS)
        ]

    def __enter__(self) -> Puts:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, chance: random.Random) -> None:
        while not self._over.is_set():
            running = [node for node in self._nodes if node.is_running]
            if not running:
                # Nobody can be asked, and nobody tells when that is over.
                self._over.wait(0.01)
                continue
            with self._lock:
                name = f"n{len(self.told)}"
                self.told[name] = None
            try:
                put = chance.choice(running).begin("put", name, chance.random() < 0.2)
                self.asked.append(put)
                self.told[name] = put.result(ANSWER_SECONDS)["outcome"]
            except (NodeDied, NodeError, futures.TimeoutError):
                self._over.wait(0.01)  # as a caller that is refused would, before the next


def test_stores_agree_whatever_happens_to_the_nodes(
    tmp_path: Path, postgres: PostgresCluster
) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(1_000_000))
    print(f"SEED={seed}")
    root = tmp_path / "files"
    root.mkdir()
    database = postgres.create_database()
    postgres.query(database, "CREATE TABLE facts (name text PRIMARY KEY)")
    stores = {"root": str(root), "dsn": postgres.dsn(database)}
    made = proxied(tmp_path, "raft_service_node.py", log_compaction_threshold=COMPACTION, **stores)
    with made as (cluster, proxy):
        cluster.leader()
        faults = Faults(cluster, proxy, seed)
        try:
            with Puts(cluster, seed) as puts:
                faults.run(SECONDS)
            # What nobody waited for any more may begin yet.
            cluster.start()
            assert not futures.wait(puts.asked, PATIENCE).not_done
            judge(cluster, puts.told, root, postgres, database)
        except BaseException:
            print("\n".join(faults.told))
            raise


def serves(node: NodeProcess) -> bool:
    """Whether its service is started; not while no majority answers it."""
    with contextlib.suppress(NodeError):
        node.ask("serve")
        return True
    return False


def judge(
    cluster: RaftCluster,
    told: dict[str, str | None],
    root: Path,
    postgres: PostgresCluster,
    database: str,
) -> None:
    """With every fault healed: all has ended, and stores, journal and callers say the same."""
    for node in cluster.nodes.values():
        eventually(functools.partial(serves, node), f"{node.node_id} serves")
    outcomes: dict[str, Any] = {}

    def have_ended() -> bool:
        node = cluster.nodes["a"]
        asked = {name: node.begin("outcome", name) for name in told if name not in outcomes}
        # A question fails while leaders change; it is asked again.
        with contextlib.suppress(NodeError):
            for name, answer in asked.items():
                found = answer.result(PATIENCE)
                if found is None or found["outcome"] in ENDED:
                    outcomes[name] = found and found["outcome"]
        return outcomes.keys() == told.keys()

    eventually(have_ended, "every coordination ends")
    prepared = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
    eventually(lambda: postgres.query(database, prepared) == [["0"]], "nothing is left prepared")
    committed = {name for name, outcome in outcomes.items() if outcome == "committed"}
    rows = {row[0] for row in postgres.query(database, "SELECT name FROM facts")}
    files = {path.name for path in root.iterdir() if path.is_file()}
    print(f"{len(told)} puts, {len(committed)} committed")
    assert rows == committed, f"rows: {sorted(rows ^ committed)}"
    assert files == committed, f"files: {sorted(files ^ committed)}"
    for name, outcome in told.items():
        assert outcome not in ENDED or outcome == outcomes[name], f"{name}: {outcome}"
    assert len(committed) > 5, "nearly nothing was done"
