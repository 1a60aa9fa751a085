"""A small HTTP server that answers GET /metrics, and nothing else.

One thread with a selector serves everybody. Not a web server: a connection is for one answer.
Invariants: whoever sends slowly, much, or nothing holds nobody else up, and is cut off after a
bound; the thread has ended when `close` returns, which exit calls too, so that it is never inside
of Python while the interpreter ends; a forked child lets go of the port.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType

from ._exceptions import ConfigError

_logger = logging.getLogger("unanimity.metrics")

_REQUEST_MAX = 8_192
_CONNECTIONS_MAX = 64
_PATIENCE_SECONDS = 5.0
# For the answer, which may be long.
_SENDING_SECONDS = 30.0
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Connection:
    """One caller: what came of the request, then what is left of the answer."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.until = time.monotonic() + _PATIENCE_SECONDS
        self.request = b""
        self.answer: memoryview | None = None


class MetricsServer:
    """Answers at `url` until it is closed; `with` closes it."""

    def __init__(self, render: Callable[[], str], host: str, port: int) -> None:
        """Listen, and start the thread. ConfigError where the address cannot be listened at."""
        self._render = render
        self._listener = _listen(host, port)
        self.host: str = host
        self.port: int = self._listener.getsockname()[1]
        self._is_closing = False
        self._selector = selectors.DefaultSelector()
        self._connections: dict[socket.socket, _Connection] = {}
        # A byte on it wakes the thread.
        self._bell, self._ear = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="unanimity-metrics", daemon=True)
        _open.add(self)
        atexit.register(self.close)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        """Stop answering, and let go of the port; repeats do nothing. Waits for the thread."""
        atexit.unregister(self.close)
        if not self._is_closing:
            self._is_closing = True
            with contextlib.suppress(OSError):
                self._bell.send(b"x")
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MetricsServer({self.url!r}{', closed' if self._is_closing else ''})"

    # ---- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_closing:
                for key, _ in self._selector.select(
                    _PATIENCE_SECONDS if self._connections else None
                ):
                    self._ready(key.fileobj)
                self._cut_off_the_late()
        finally:
            self._let_go()

    def _ready(self, which: object) -> None:
        if which is self._listener:
            self._accept()
        elif isinstance(which, socket.socket) and which in self._connections:
            connection = self._connections[which]
            try:
                self._go_on(connection)
            except BlockingIOError:
                pass
            except OSError:
                self._end(connection)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            # It has gone again, or there are too many files open: those go first.
            return self._cut_off_the_late()
        if len(self._connections) >= _CONNECTIONS_MAX:
            # The one that has waited longest is the least likely to come to its end.
            self._end(min(self._connections.values(), key=lambda known: known.until))
        self._connections[sock] = _Connection(sock)
        self._selector.register(sock, selectors.EVENT_READ)

    def _go_on(self, connection: _Connection) -> None:
        if connection.answer is None:
            came = connection.socket.recv(_REQUEST_MAX)
            connection.request += came
            if not came:
                return self._end(connection)
            is_whole = b"\r\n\r\n" in connection.request or b"\n\n" in connection.request
            if not is_whole and len(connection.request) <= _REQUEST_MAX:
                return
            connection.answer = memoryview(self._answer(connection.request, is_whole))
            connection.until = time.monotonic() + _SENDING_SECONDS
            self._selector.modify(connection.socket, selectors.EVENT_WRITE)
        sent = connection.socket.send(connection.answer)
        connection.answer = connection.answer[sent:]
        if not connection.answer:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_WR)
            self._end(connection)

    def _answer(self, request: bytes, is_whole: bool) -> bytes:
        if not is_whole:
            return _response("431 Request Header Fields Too Large", "the request is too long\n")
        words = request.split(b"\n", 1)[0].split()
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", "this is no HTTP/1.1 request\n")
        method, path = words[0], words[1].split(b"?", 1)[0]
        if path != b"/metrics":
            return _response("404 Not Found", "the metrics are at /metrics\n")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "use GET\n", "Allow: GET, HEAD\r\n")
        try:
            text = self._render()
        except Exception:
            _logger.exception("the metrics cannot be shown")
            return _response("500 Internal Server Error", "the log says what is wrong\n")
        return _response("200 OK", text, is_head=method == b"HEAD")

    def _cut_off_the_late(self) -> None:
        now = time.monotonic()
        for connection in [known for known in self._connections.values() if known.until <= now]:
            self._end(connection)

    def _end(self, connection: _Connection) -> None:
        if self._connections.pop(connection.socket, None) is not None:
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _let_go(self) -> None:
        _open.discard(self)
        for connection in list(self._connections.values()):
            self._end(connection)
        self._selector.close()
        for sock in (self._listener, self._bell, self._ear):
            sock.close()

    def _is_a_copy(self) -> None:
        """In a forked child: the thread is not here, and the port is the parent's."""
        self._is_closing = True
        atexit.unregister(self.close)
        # Closing is no unregistering: the selector's sockets are the parent's too.
        self._selector.close()
        for sock in (self._listener, self._bell, self._ear, *self._connections):
            sock.close()


_open: weakref.WeakSet[MetricsServer] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    for server in list(_open):
        server._is_a_copy()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


def _listen(host: object, port: object) -> socket.socket:
    if not isinstance(host, str):
        raise TypeError(f"host is a {type(host).__name__}; give a str")
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port is a {type(port).__name__}; give an int")
    if not 0 <= port <= 65_535:
        raise ConfigError(f"port is {port}; give a number from 0 to 65535")
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"metrics cannot be served at {host}:{port}: {error}",
            hint="give another port, or port=0 for one that is free",
        ) from error


def _response(status: str, text: str, more: str = "", *, is_head: bool = False) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if is_head else body)
