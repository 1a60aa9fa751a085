"""Clients of a cluster: they propose and read at every node, and write down what they were told.

Not the faults (`raft_faults`) and not the judgement of a history (`linearizability`). Invariants:
times are those of one monotonic clock; a proposal that was not told that it stands is written
down as one whose answer is not known, and a read without an answer is not written down; a client
that has no answer in time goes on with something else.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from concurrent import futures
from types import TracebackType

from linearizability import Operation, proposed, read, told, unexplained
from raft_cluster import PATIENCE, NodeDied, NodeError, NodeProcess, RaftCluster

CALLS_A_KEY = 12
"""About how often a key is used before the next one is."""
_ANSWER_SECONDS = 2.0
_EXPECTED = ("NoQuorum", "ServiceClosed")


class Load:
    """Some clients at work, each on a thread of its own, from `with` to its end."""

    def __init__(self, nodes: Mapping[str, NodeProcess], seed: int, clients: int = 6) -> None:
        self.history: list[Operation] = []
        self.acknowledged: dict[str, str] = {}
        self.surprises: list[str] = []
        """What nodes raised that a client is not to expect."""
        self._nodes = list(nodes.values())
        self._calls = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number, random.Random(f"{seed} {number}")))
            for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Have the clients come to an end."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def keys(self) -> list[str]:
        """Every key that was used."""
        with self._lock:
            return [f"t{number}" for number in range(self._calls // CALLS_A_KEY + 1)]

    def latest(self) -> tuple[str, str]:
        """What was acknowledged last on a key that had no acknowledgement before."""
        with self._lock:
            return next(reversed(self.acknowledged.items()))

    # ---- one client -------------------------------------------------------------------------

    def _work(self, number: int, chance: random.Random) -> None:
        while not self._over.is_set():
            running = [node for node in self._nodes if node.is_running]
            if not running:
                # Nobody can be asked, and nobody tells when that is over.
                self._over.wait(0.01)
                continue
            node, key = chance.choice(running), self._key(chance)
            by = f"client {number} at {node.node_id}"
            if chance.random() < 0.4:
                self._read(node, key, by)
            else:
                self._propose(node, key, chance.choice(["COMMIT", "ABORT"]), by)

    def _key(self, chance: random.Random) -> str:
        with self._lock:
            self._calls += 1
            latest = self._calls // CALLS_A_KEY
        # Sometimes an old one, whose decision is to be there still.
        return f"t{chance.randint(0, latest) if chance.random() < 0.1 else latest}"

    def _propose(self, node: NodeProcess, key: str, value: str, by: str) -> None:
        called = time.monotonic()
        stands = self._answer(node, "propose", key, value, {"by": by})
        returned = time.monotonic()
        if stands is True:
            operation = proposed(key, value, called, returned, by)
        else:
            operation = proposed(key, value, called, by=by)
        with self._lock:
            self.history.append(operation)
            if stands is True:
                self.acknowledged.setdefault(key, value)

    def _read(self, node: NodeProcess, key: str, by: str) -> None:
        called = time.monotonic()
        found = self._answer(node, "read", key)
        returned = time.monotonic()
        if found is not False:
            with self._lock:
                self.history.append(read(key, _decision(found), called, returned, by))

    def _answer(self, node: NodeProcess, verb: str, *arguments: object) -> object:
        """What the node answered; False where it did not."""
        try:
            return node.begin(verb, *arguments).result(_ANSWER_SECONDS)
        except NodeError as error:
            if error.kind not in _EXPECTED:
                with self._lock:
                    self.surprises.append(f"{node.node_id}, {verb}: {error}")
        except NodeDied:
            # As a client does that finds nobody: at once, the next call would find nobody too.
            self._over.wait(0.01)
        except futures.TimeoutError:
            pass
        return False

    # ---- the judgement ----------------------------------------------------------------------

    def judge(self, cluster: RaftCluster) -> None:
        """Behind the load, with every fault healed: hold what was told against what there is."""
        self.end()
        cluster.start()
        cluster.leader()
        last = {node.node_id: self._read_all(node) for node in cluster.nodes.values()}
        first, *others = last.values()
        assert all(other == first for other in others), f"nodes differ: {_differences(last)}"
        for key, value in self.acknowledged.items():
            assert first[key] == value, f"{key} was acknowledged as {value} and is {first[key]}"
        assert self.surprises == []
        wrong = unexplained(self.history)
        assert not wrong, told(wrong)

    def _read_all(self, node: NodeProcess) -> dict[str, str | None]:
        keys, called = self.keys(), time.monotonic()
        answers = [node.begin("read", key) for key in keys]
        found: dict[str, str | None] = {}
        for key, answer in zip(keys, answers, strict=True):
            try:
                found[key] = _decision(answer.result(PATIENCE))
            except NodeError:  # a slow machine may have lost its majority once more
                found[key] = _decision(node.insist("read", key))
        returned = time.monotonic()
        by = f"the last look at {node.node_id}"
        self.history += [read(key, found[key], called, returned, by) for key in keys]
        return found


def _decision(found: object) -> str | None:
    return str(found["decision"]) if isinstance(found, dict) else None


def _differences(last: dict[str, dict[str, str | None]]) -> dict[str, list[str | None]]:
    keys = next(iter(last.values()))
    found = {key: [seen[key] for seen in last.values()] for key in keys}
    return {key: seen for key, seen in found.items() if len(set(seen)) > 1}
