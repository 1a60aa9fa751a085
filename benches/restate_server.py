"""The server of Restate for W1: one node on loopback, its data in a temporary folder.

Not a mock: it is the program that its npm package ships. Its defaults stand: one node with a
replicated log of one copy, fsync of the log on. A small shell watches over it: when its input ends,
because the benchmark ended in whatever way, it stops the server. Invariant: after the `with` block
neither server nor folder is left.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from server import NoServer

_NPM = Path(__file__).resolve().parent.parent / "target" / "bench-peers-npm"
_PROGRAM = "node_modules/@restatedev/restate-server-linux-*/bin/restate-server"
_START_SECONDS = 120.0
_WATCH = """
"$@" & pid=$!
read -r _
kill $pid; wait $pid
"""


def find_restate() -> Path | None:
    """The installed program; None where there is none."""
    return next(iter(_NPM.glob(_PROGRAM)), None)


class RestateServer:
    """A server for all cases of a workload; each case registers its own service with it."""

    def __enter__(self) -> RestateServer:
        """Start it, and wait until it takes registrations."""
        program = find_restate()
        if program is None:
            raise NoServer("Restate is not installed; `make bench-peers` installs it, by npm")
        self._folder = Path(tempfile.mkdtemp(prefix="unanimity-restate-"))
        self._node, self._ingress, self._admin = _free_ports(3)
        with (self._folder / "log").open("w") as log:
            self._watch = subprocess.Popen(
                ["sh", "-c", _WATCH, "watch", str(program), *self._arguments()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._settings()},
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C is the benchmark's matter, not the server's
            )
        try:
            self._wait_until_ready()
        except NoServer:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it and remove its files."""
        self._close()

    def prepared_anew(self) -> list[str]:
        """The arguments that tell a case where its ingress and its registry are."""
        ingress, admin = (f"http://127.0.0.1:{port}" for port in (self._ingress, self._admin))
        return ["--database", ingress, "--database", admin, "--postmaster", str(self._watch.pid)]

    def check(self) -> None:
        """A case checks by itself that every step ran once."""

    def _arguments(self) -> list[str]:
        data = str(self._folder / "data")
        return ["--no-logo", "--listen-mode", "tcp", "--base-dir", data, "--node-name", "bench"]

    def _settings(self) -> dict[str, str]:
        ports = {"": self._node, "INGRESS__": self._ingress, "ADMIN__": self._admin}
        places = {
            f"RESTATE_{section}BIND_ADDRESS": f"127.0.0.1:{port}" for section, port in ports.items()
        }
        advertised = {"RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{self._node}/"}
        return {**places, **advertised, "RESTATE_DISABLE_TELEMETRY": "true"}

    def _wait_until_ready(self) -> None:
        urls = [
            f"http://127.0.0.1:{self._admin}/health",
            f"http://127.0.0.1:{self._ingress}/restate/health",
        ]
        deadline = time.monotonic() + _START_SECONDS
        while not all(_answers(url) for url in urls):
            if time.monotonic() > deadline or self._watch.poll() is not None:
                lines = (self._folder / "log").read_text(errors="replace").splitlines()
                raise NoServer(f"the Restate server did not start: {' '.join(lines[-3:])}")
            time.sleep(0.05)

    def _close(self) -> None:
        assert self._watch.stdin is not None
        self._watch.stdin.close()
        self._watch.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Different ones: all are held until the last is found."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False
