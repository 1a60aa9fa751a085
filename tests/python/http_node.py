"""Serves a store over HTTP until it is killed: `python http_node.py PORT FILE`.

It says `ready PORT` once it takes connections (port 0 chooses one). It kills itself before or
behind a call of its store where the environment says so, as `before#commit_transaction`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

from broken_stores import HonestStore
from unanimity.http_store import store_app

DIES = "UNANIMITY_TEST_DIES"
TOKEN = "a secret of this test"


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_open(port: int) -> None:
    """Wait until somebody takes connections; a server of somebody else's gives no other sign."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nobody takes connections on port {port}")


class Armed(HonestStore):
    """Dies where it is told."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        when, _, method = os.environ.get(DIES, "").partition("#")
        if name != method:
            return found

        def call(*arguments: Any) -> None:
            if when == "after":
                found(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        return call


class Telling(uvicorn.Server):
    """Says when it is ready."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print("ready", port, flush=True)


class Node:
    """The process, from a test's side."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/store"

    def start(self, dies: str = "") -> None:
        """Start it, on the same port as before."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.port), str(self.file)],
            env={**os.environ, DIES: dies},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        word, port = self._process.stdout.readline().split()
        assert word == "ready"
        self.port = int(port)

    def ended(self) -> int:
        """Wait until it has died; its code."""
        assert self._process is not None and self._process.stdout is not None
        code = self._process.wait(60)
        self._process.stdout.close()
        self._process = None
        return code

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self.ended()


if __name__ == "__main__":
    port, file = sys.argv[1:]
    app = store_app(Armed(file, "there"), token=TOKEN)
    config = uvicorn.Config(app, port=int(port), log_level="warning", loop="asyncio")
    Telling(config).run()
