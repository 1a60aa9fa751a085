"""The peer of W5: an etcd cluster of three members on loopback, with fsync, as its package sets it.

Not a mock. Invariants: the data are on the disk of the benchmarks; after `close` no member is left.
"""

from __future__ import annotations

import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "python"))

from server import NoServer

from watched_server import WatchedServer

_MEMBERS = 3


class _Member(WatchedServer):
    """One member; its port is the one of clients."""

    def __init__(self, name: str) -> None:
        super().__init__("etcd")
        self.name = name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.peer_port: int = probe.getsockname()[1]
        self.cluster = ""

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    def _command(self) -> list[str]:
        client = f"http://127.0.0.1:{self.port}"
        return [
            "etcd",
            *("--name", self.name, "--data-dir", str(self.folder / "data")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", self.peer_url),
            *("--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", self.cluster, "--initial-cluster-state", "new"),
            *("--logger", "zap", "--log-level", "error"),
        ]

    def _answers(self) -> bool:
        # The first one answers when another is there: `is_healthy` is waited for, of all of them.
        return True

    def is_healthy(self) -> bool:
        """Whether it can write."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as page:
                return b'"true"' in page.read()
        except OSError:
            return False


class EtcdCluster:
    """Three members."""

    def __enter__(self) -> EtcdCluster:
        """Start them, and wait until they are healthy."""
        if shutil.which("etcd") is None:
            raise NoServer("etcd is not installed; on Debian: apt-get install etcd-server")
        self._members = [_Member(f"m{number}") for number in range(_MEMBERS)]
        cluster = ",".join(f"{each.name}={each.peer_url}" for each in self._members)
        try:
            for member in self._members:
                member.cluster = cluster
                member.start()
            if not _within(60, lambda: all(each.is_healthy() for each in self._members)):
                raise RuntimeError(self._members[0].log())
        except RuntimeError as error:
            self._close()
            raise NoServer(f"no etcd cluster: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop them and remove their files."""
        self._close()

    def _close(self) -> None:
        for member in self._members:
            member.close()

    def prepared_anew(self) -> list[str]:
        """The arguments that tell a case where the members are."""
        return [
            each for member in self._members for each in ("--database", f"127.0.0.1:{member.port}")
        ]

    def check(self) -> None:
        """A case checks by itself that every put was answered."""


def _within(seconds: float, is_so: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
