"""A receiver of webhooks for tests: a real HTTP server on loopback that keeps what it is sent.

Not a stand-in for a service that people use. It answers 204 unless it is told otherwise.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

PATIENCE = 30.0


@dataclass(frozen=True)
class Post:
    """One post that came; or anything else, with an empty body."""

    path: str
    headers: dict[str, str]
    body: bytes
    answered: int

    @property
    def alert(self) -> dict[str, Any]:
        """Its body as JSON."""
        read: dict[str, Any] = json.loads(self.body)
        return read


class WebhookReceiver:
    """Listens from `with` to its end, on a free port."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.posts: list[Post] = []
        self.answers: deque[int] = deque()
        """What the next posts are answered, one each."""
        self.answer_headers: dict[str, str] = {}
        self.gate: threading.Event | None = None
        """What every post waits for before it is answered."""
        self._changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.server_port}/hooks/s3cr3t-path"

    @property
    def taken(self) -> list[Post]:
        """Those that were answered with a 2xx."""
        return [post for post in self.posts if 200 <= post.answered < 300]

    def wait_for(self, count: int) -> list[Post]:
        """Wait until so many posts came."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.posts) >= count, PATIENCE)
            assert came, f"{len(self.posts)} posts came, not {count}"
            return list(self.posts)

    def __enter__(self) -> WebhookReceiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                receiver._take(self, b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.gate is not None:
                    receiver.gate.wait(PATIENCE)
                receiver._take(self, body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self._tls is not None:
            # Shaken hands with by whoever serves the connection, so that nobody else waits for it.
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def _take(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        with self._changed:
            answer = self.answers.popleft() if self.answers else 204
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.posts.append(Post(handler.path, headers, body, answer))
            self._changed.notify_all()
        try:
            handler.send_response(answer)
            for name, value in self.answer_headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        except OSError:
            # Whoever asked has given up meanwhile.
            pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        if self.gate is not None:
            self.gate.set()
        self._server.shutdown()
        self._server.server_close()
