"""A real ZooKeeper server for tests.

Not how it is watched over (`watched_server`). Invariant: its data are in its own folder alone.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from watched_server import WatchedServer

_JAR = Path("/usr/share/java/zookeeper.jar")
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


class ZooKeeperServer(WatchedServer):
    """One server, without authentication on loopback."""

    def __init__(self) -> None:
        """Choose a folder and a port, and write the server's configuration."""
        if find_zookeeper() is None:
            raise FileNotFoundError("ZooKeeper is not installed; on Debian: zookeeper and a JRE")
        super().__init__("zk")
        (self.folder / "data").mkdir()
        config = _CONFIG.format(port=self.port, folder=self.folder)
        (self.folder / "zoo.cfg").write_text(config)

    @property
    def hosts(self) -> str:
        """How to reach it."""
        return f"127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        java = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", str(_JAR), main]
        return [*java, str(self.folder / "zoo.cfg")]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"ruok")
                return connection.recv(4) == b"imok"
        except OSError:
            return False
