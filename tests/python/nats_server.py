"""A real NATS server with JetStream for tests, in a temporary folder on a free loopback port.

Not a fixture by itself and not a mock; only the standard library is used. A small shell watches
over the server: when its input ends, because the test process ended in whatever way, it kills the
server and removes the folder. Invariant: after `close()` (or the end of the process) no server and
no folder is left.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

_START_SECONDS = 60.0
_WATCH = """
folder=$1; shift
"$@" >>"$folder/log" 2>&1 &
pid=$!; exec 2>/dev/null
read -r verb
if [ "$verb" = keep ]; then kill -KILL $pid; wait $pid; exit 0; fi
kill -KILL $pid; wait $pid; rm -rf "$folder"
"""


def find_nats() -> str | None:
    """Where the server's program is; Debian puts it outside of most users' path."""
    return shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/sbin")


class NatsServer:
    """One server. It may be killed and started again on the same port and data."""

    def __init__(self) -> None:
        """Choose a folder and a port."""
        self._watch: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="unanimity-nats-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    def __enter__(self) -> NatsServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """How to reach it."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it on the same port and data, and wait until it answers."""
        if self._watch is not None:
            return
        program = find_nats()
        assert program is not None, "nats-server is not installed"
        data = str(self.folder / "data")
        server = [program, "-js", "-sd", data, "-a", "127.0.0.1", "-p", str(self.port)]
        self._watch = subprocess.Popen(
            ["sh", "-c", _WATCH, "watch", str(self.folder), *server],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C is the tests' matter, not the server's
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._watch.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.log()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it, and keep the data."""
        if self._watch is None:
            return
        assert self._watch.stdin is not None
        self._watch.stdin.write(b"keep\n")
        self._watch.stdin.close()
        self._watch.wait()
        self._watch = None

    def close(self) -> None:
        """Stop it and remove its folder."""
        if self._watch is not None:
            assert self._watch.stdin is not None
            self._watch.stdin.close()
            self._watch.wait()
            self._watch = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """What the server wrote."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _answers(self) -> bool:
        """It says hello first, and answers a ping once it is ready."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"CONNECT {}\r\nPING\r\n")
                heard = b""
                while b"PONG" not in heard:
                    more = connection.recv(4096)
                    if not more:
                        return False
                    heard += more
                return True
        except OSError:
            return False
