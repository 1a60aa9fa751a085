"""The proxy that other tests break links with does what it says.

The nodes here are an echo behind it, and sockets that greet as a node does.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from fault_proxy import FaultProxy


def _hello(node_id: str) -> bytes:
    texts = b"".join(struct.pack("<H", len(text)) + text for text in (b"cluster", node_id.encode()))
    return struct.pack("<II", len(texts), 0) + texts


class Echo:
    """Answers the opening, reads the hello, then sends back what comes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                taken, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(taken,), daemon=True).start()

    def _serve(self, taken: socket.socket) -> None:
        # A link that is cut while it greets ends in the middle of a word.
        with taken, contextlib.suppress(OSError, struct.error):
            taken.recv(8)
            taken.sendall(b"\1")
            (length,) = struct.unpack("<I", taken.recv(8, socket.MSG_WAITALL)[:4])
            taken.recv(length, socket.MSG_WAITALL)
            while chunk := taken.recv(100):
                taken.sendall(chunk)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def way() -> Iterator[tuple[FaultProxy, int]]:
    echo = Echo()
    with FaultProxy() as proxy:
        yield proxy, proxy.before("b", echo.port)
    echo.close()


def _call(port: int, node_id: str) -> socket.socket:
    link = socket.create_connection(("127.0.0.1", port), timeout=10)
    link.sendall(b"8 bytes.")
    assert link.recv(1) == b"\1"
    link.sendall(_hello(node_id))
    return link


def _echoes(link: socket.socket) -> bool:
    link.sendall(b"ping")
    return link.recv(4, socket.MSG_WAITALL) == b"ping"


def test_what_is_sent_arrives(way: tuple[FaultProxy, int]) -> None:
    _, port = way
    with _call(port, "a") as link:
        assert _echoes(link)


def test_a_cut_breaks_what_is_open_and_what_comes_between_those_two_alone(
    way: tuple[FaultProxy, int],
) -> None:
    proxy, port = way
    with _call(port, "a") as link, _call(port, "c") as other:
        assert _echoes(link) and _echoes(other)
        proxy.cut("b", "a")
        assert link.recv(1) == b""
        assert _echoes(other)
        with _call(port, "a") as late:
            assert late.recv(1) == b""
        proxy.heal()
        with _call(port, "a") as healed:
            assert _echoes(healed)
        proxy.isolate("b", ["a", "c"])
        assert other.recv(1) == b""


def test_what_is_held_arrives_when_the_link_heals(way: tuple[FaultProxy, int]) -> None:
    proxy, port = way
    for pair in (("a", "b"), ("b", "a")):
        with _call(port, "a") as link:
            proxy.hold(*pair)
            link.sendall(b"late")
            link.settimeout(0.05)
            with pytest.raises(TimeoutError):
                link.recv(4)
            proxy.heal()
            link.settimeout(10)
            assert link.recv(4, socket.MSG_WAITALL) == b"late"


def test_what_is_delayed_arrives(way: tuple[FaultProxy, int]) -> None:
    proxy, port = way
    proxy.delay("a", "b", 0.01)
    with _call(port, "a") as link:
        assert _echoes(link)
