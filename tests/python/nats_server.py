"""A real NATS server with JetStream for tests.

Not how it is watched over (`watched_server`). Invariant: its data are in its own folder alone.
"""

from __future__ import annotations

import shutil
import socket

from watched_server import WatchedServer


def find_nats() -> str | None:
    """Where the server's program is; Debian puts it outside of most users' path."""
    return shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/sbin")


class NatsServer(WatchedServer):
    """One server."""

    def __init__(self) -> None:
        """Choose a folder and a port."""
        super().__init__("nats")

    @property
    def url(self) -> str:
        """How to reach it."""
        return f"nats://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        program = find_nats()
        assert program is not None, "nats-server is not installed"
        data = str(self.folder / "data")
        return [program, "-js", "-sd", data, "-a", "127.0.0.1", "-p", str(self.port)]

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
