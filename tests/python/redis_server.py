"""A real Redis server for tests, and a way to look into it.

Not how it is watched over (`watched_server`), and not a client library. Invariant: its data are in
its own folder alone, and every answer is on the disk, unless a test's settings say otherwise.
"""

from __future__ import annotations

import os
import shutil
import socket
from typing import BinaryIO

from watched_server import WatchedServer


def find_redis() -> str | None:
    """Where the server's program is; the environment may name another one."""
    return os.environ.get("UNANIMITY_TEST_REDIS_SERVER") or shutil.which("redis-server")


class RedisServer(WatchedServer):
    """One server."""

    def __init__(self, *settings: str) -> None:
        """Choose a folder and a port."""
        super().__init__("redis")
        self._settings = settings
        self._databases = 0
        (self.folder / "data").mkdir()

    def url(self, database: int = 0) -> str:
        """How to reach it."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    def fresh_url(self) -> str:
        """How to reach a database that no other test uses."""
        self._databases += 1
        return self.url(self._databases)

    def ask(self, *words: str, url: str = "") -> list[str]:
        """Ask a command and give its answer's parts; an error is raised."""
        return ask(url or self.url(), *words)

    def values(self, pattern: str, url: str = "") -> dict[str, str]:
        """Every string whose key matches, by key."""
        keys = self.ask("KEYS", pattern, url=url)
        return {key: self.ask("GET", key, url=url)[0] for key in keys}

    def _command(self) -> list[str]:
        program = find_redis()
        assert program is not None, "redis-server is not installed"
        folder = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", f"{self.folder}/data"]
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        return [program, *folder, *durable, "--databases", "1000", *self._settings]

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == ["PONG"]
        except (OSError, RuntimeError, EOFError):
            return False


def ask(url: str, *words: str) -> list[str]:
    """Ask the server of a URL a command and give its answer's parts; an error is raised."""
    address, _, database = url.removeprefix("redis://").partition("/")
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(_packed("SELECT", database) + _packed(*words))
        with connection.makefile("rb") as answers:
            _read(answers)
            return _read(answers)


def _packed(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


def _read(answers: BinaryIO) -> list[str]:
    line = answers.readline()
    if not line:
        raise EOFError
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise RuntimeError(rest.decode())
    if kind == b"$":
        length = int(rest)
        return [] if length < 0 else [answers.read(length + 2)[:-2].decode()]
    if kind == b"*":
        return [part for _ in range(int(rest)) for part in _read(answers)]
    return [rest.decode()]
