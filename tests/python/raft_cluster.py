"""A cluster for tests: real node processes on loopback, told what to do, killed and stopped by pid.

Not a fixture by itself. Invariants: nobody sleeps to wait for an answer, and what gives no signal
(who leads) is polled up to a deadline; after `close()` no process is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

PATIENCE = 60.0
SECRET = "the secret of the tests' cluster"
_SCRIPT = Path(__file__).with_name("raft_node.py")


class NodeError(Exception):
    """What a node raised."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(f"{answer['error']}: {answer['message']}")
        self.kind: str = answer["error"]
        self.code: str | None = answer["code"]


class NodeDied(Exception):
    """The process ended before it answered."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class NodeProcess:
    """One node; it may be killed and started again on its data."""

    script = _SCRIPT
    """What runs in it."""
    prefix: tuple[str, ...] = ()
    """The command that runs it, where it does not run by itself."""
    environment: dict[str, str]
    """What it has beside ours, from the next start on."""

    def __init__(self, options: dict[str, Any], log: Path) -> None:
        self.options = options
        self.environment = {}
        self.node_id: str = options["node_id"]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: dict[int, Future[Any]] = {}
        self._number = 0
        self._lock = threading.Lock()

    # ---- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process, and the node in it."""
        self.spawn()
        self.ask("start")

    def spawn(self) -> None:
        """Start the process alone."""
        # Of this process alone: the end of the one before it may be heard later. It is there
        # before the process is, which other threads may ask at once.
        self._asked = {}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, sys.executable, str(self.script), json.dumps(self.options)],
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the tests' matter, not the node's
            )
        arguments = (self._process, self._asked)
        threading.Thread(target=self._hear, args=arguments, daemon=True).start()

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.node_id} does not run"
        return self._process.pid

    def kill(self) -> None:
        """Kill it as a power cut would, and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            # What was not written yet has nobody to go to.
            with contextlib.suppress(OSError):
                pipe.close()

    def ended(self) -> int:
        """Wait until it has ended by itself; with which code, or minus which signal."""
        assert self._process is not None, f"{self.node_id} does not run"
        code = self._process.wait(PATIENCE)
        self.kill()
        return code

    def stop(self) -> None:
        """Stop it, as a machine that is out of breath."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    # ---- questions --------------------------------------------------------------------------

    def ask(self, verb: str, *arguments: Any, timeout: float = PATIENCE) -> Any:
        """Have it do something, and wait for the answer."""
        return self.begin(verb, *arguments).result(timeout)

    def insist(self, verb: str, *arguments: Any) -> Any:
        """As `ask`, again while no majority answers: behind a fault, or on a slow machine."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.ask(verb, *arguments)
            except NodeError as error:
                if error.kind != "NoQuorum" or time.monotonic() > deadline:
                    raise

    def begin(self, verb: str, *arguments: Any) -> Future[Any]:
        """Have it do something, and do not wait."""
        process, asked = self._process, self._asked
        answer: Future[Any] = Future()
        if process is None:
            answer.set_exception(NodeDied(f"{self.node_id} does not run"))
            return answer
        assert process.stdin is not None
        with self._lock:
            self._number += 1
            asked[self._number] = answer
            line = {"n": self._number, "do": verb, "arguments": arguments}
            try:
                process.stdin.write(json.dumps(line).encode() + b"\n")
                process.stdin.flush()
            except (OSError, ValueError):  # it is dead, or was killed just now by another thread
                asked.pop(self._number, None)
                answer.set_exception(self._died())
        return answer

    def _died(self) -> NodeDied:
        return NodeDied(f"{self.node_id} died:\n{self.log()[-2000:]}")

    def _hear(self, process: subprocess.Popen[bytes], asked: dict[int, Future[Any]]) -> None:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                told = json.loads(line)
                with self._lock:
                    answer = asked.pop(told["n"])
                if "error" in told:
                    answer.set_exception(NodeError(told))
                else:
                    answer.set_result(told["answer"])
        except ValueError:
            pass  # the pipe was closed under us, behind a kill
        with self._lock:
            left = list(asked.values())
            asked.clear()
        for answer in left:
            answer.set_exception(self._died())


class RaftCluster:
    """Several nodes that know each other."""

    def __init__(
        self,
        folder: Path,
        ids: Iterable[str] = ("a", "b", "c"),
        *,
        fronts: dict[str, int] | None = None,
        places: dict[str, str] | None = None,
        tls_of: Callable[[str], dict[str, str]] | None = None,
        **more: Any,
    ) -> None:
        """Choose ports; `fronts` are those of a proxy, where others are to find the nodes.

        `places` are "host:port" of nodes that are not on loopback; nothing is chosen then.
        `tls_of` gives the files of a node, instead of the secret.
        """
        ids = list(ids)
        self.folder = folder
        self.ports = {} if places else dict(zip(ids, free_ports(len(ids)), strict=True))
        places = places or {
            node_id: f"127.0.0.1:{port}" for node_id, port in (fronts or self.ports).items()
        }
        self.addresses = {node_id: f"{node_id}={places[node_id]}" for node_id in ids}
        self.more: dict[str, Any] = {
            "election_timeout_ms": 500,
            "heartbeat_interval_ms": 100,
            "secret": None if tls_of else SECRET,
            **more,
        }
        self._tls_of = tls_of
        self.nodes = {node_id: self.make(node_id) for node_id in ids}

    def make(self, node_id: str, **more: Any) -> NodeProcess:
        """A node of it, not started."""
        options = {
            "node_id": node_id,
            "cluster_nodes": list(self.addresses.values()),
            "data_dir": str(self.folder / node_id),
            **self.more,
            **more,
        }
        if self._tls_of:
            options.setdefault("tls", self._tls_of(node_id))
        if node_id in self.ports:
            options.setdefault("listen", f"127.0.0.1:{self.ports[node_id]}")
        return NodeProcess(options, self.folder / f"{node_id}.log")

    def __enter__(self) -> RaftCluster:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for node in self.nodes.values():
                print(f"---- {node.node_id}\n{node.log()[-4000:]}")
        self.close()

    def start(self) -> None:
        """Start every node that does not run."""
        waiting = [node for node in self.nodes.values() if not node.is_running]
        for node in waiting:
            node.spawn()
        for answer in [node.begin("start") for node in waiting]:
            answer.result(PATIENCE)

    def close(self) -> None:
        """Kill what runs."""
        for node in self.nodes.values():
            node.kill()

    # ---- who leads --------------------------------------------------------------------------

    def leader(self, among: Iterable[str] | None = None) -> NodeProcess:
        """The node that the others (or those among them) follow, waited for."""
        ids = list(self.nodes if among is None else among)
        found: list[str] = []

        def agree() -> bool:
            seen = [self.nodes[one].ask("properties") for one in ids]
            leaders = {one["leader_id"] for one in seen}
            terms = {one["current_term"] for one in seen}
            found[:] = [str(leader) for leader in leaders if leader in ids]
            return len(leaders) == len(terms) == len(found) == 1 and (
                seen[ids.index(found[0])]["state"] == "leader"
            )

        eventually(agree, f"{ids} agree on who leads")
        return self.nodes[found[0]]

    def others(self, node: NodeProcess) -> list[NodeProcess]:
        """Every other node that runs."""
        return [one for one in self.nodes.values() if one is not node and one.is_running]


def eventually(is_so: Callable[[], bool], what: str) -> None:
    """Wait for what gives no signal."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"it never came to be that {what}")
        time.sleep(0.02)
