"""A real ZooKeeper server for tests, in a temporary folder on a free loopback port.

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

_JAR = Path("/usr/share/java/zookeeper.jar")
_START_SECONDS = 60.0
_WATCH = """
folder=$1; shift
"$@" >>"$folder/log" 2>&1 &
pid=$!; echo $pid >"$folder/pid"; exec 2>/dev/null
read -r verb signal
if [ "$verb" = keep ]; then kill "-$signal" $pid; wait $pid; exit 0; fi
kill -KILL $pid; wait $pid; rm -rf "$folder"
"""
_CONFIG = """\
tickTime=200
initLimit=50
syncLimit=25
minSessionTimeout=400
maxSessionTimeout=60000
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=ruok
clientPortAddress=127.0.0.1
clientPort={port}
dataDir={folder}/data
"""


def find_zookeeper() -> Path | None:
    """The server's jar, which names the others; None where it or Java is not installed."""
    return _JAR if _JAR.exists() and shutil.which("java") else None


class ZooKeeperServer:
    """One server, without authentication on loopback."""

    def __init__(self) -> None:
        if find_zookeeper() is None:
            raise FileNotFoundError("ZooKeeper is not installed; on Debian: zookeeper and a JRE")
        self._watch: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="unanimity-zk-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        (self.folder / "data").mkdir()
        config = _CONFIG.format(port=self.port, folder=self.folder)
        (self.folder / "zoo.cfg").write_text(config)

    def __enter__(self) -> ZooKeeperServer:
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
    def hosts(self) -> str:
        """How to reach it."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process."""
        return int((self.folder / "pid").read_text())

    def start(self) -> None:
        """Starts it on the same port and data, and waits until it answers."""
        if self._watch is not None:
            return
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        server = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", str(_JAR), main]
        self._watch = subprocess.Popen(
            ["sh", "-c", _WATCH, "watch", str(self.folder), *server, str(self.folder / "zoo.cfg")],
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

    def stop(self) -> None:
        """Kills it, and keeps the data."""
        if self._watch is None:
            return
        assert self._watch.stdin is not None
        self._watch.stdin.write(b"keep KILL\n")
        self._watch.stdin.close()
        self._watch.wait()
        self._watch = None

    def close(self) -> None:
        """Stops it and removes its folder."""
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
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"ruok")
                return connection.recv(4) == b"imok"
        except OSError:
            return False
