"""A real server for tests, in a temporary folder on a free loopback port, whatever its program is.

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
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import TypeVar

_START_SECONDS = 60.0
_WATCH = """
folder=$1; shift
"$@" >>"$folder/log" 2>&1 &
pid=$!; echo $pid >"$folder/pid"; exec 2>/dev/null
read -r verb
if [ "$verb" = keep ]; then kill -KILL $pid; wait $pid; exit 0; fi
kill -KILL $pid; wait $pid; rm -rf "$folder"
"""
_Self = TypeVar("_Self", bound="WatchedServer")


class WatchedServer(ABC):
    """One server. It may be killed and started again on the same port and data."""

    def __init__(self, name: str) -> None:
        """Choose a folder and a port."""
        self._watch: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"unanimity-{name}-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    def __enter__(self: _Self) -> _Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _command(self) -> list[str]:
        """The program and its arguments."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it is ready."""

    @property
    def pid(self) -> int:
        """The server's process."""
        return int((self.folder / "pid").read_text())

    def start(self) -> None:
        """Start it on the same port and data, and wait until it answers."""
        if self._watch is not None:
            return
        self._watch = subprocess.Popen(
            ["sh", "-c", _WATCH, "watch", str(self.folder), *self._command()],
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
        self._end(b"keep\n")

    def close(self) -> None:
        """Kill it and remove its folder."""
        self._end(b"")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, word: bytes) -> None:
        if self._watch is None:
            return
        assert self._watch.stdin is not None
        self._watch.stdin.write(word)
        self._watch.stdin.close()
        self._watch.wait()
        self._watch = None

    def log(self) -> str:
        """What the server wrote."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""
