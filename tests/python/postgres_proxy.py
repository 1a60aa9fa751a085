"""A TCP proxy before a PostgreSQL server that loses the answer of a deciding commit, or the commit.

It reads nothing but the bytes by which a deciding commit is known. Invariants: it runs on a thread
of its own; what is held back is sent on, or dropped, only when the test says so; behind its `with`
nothing of it is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

_CHUNK = 65_536


class PostgresProxy:
    """The way to a server. `mode` says what becomes of the next deciding commit.

    "pass": nothing. "lose_answer": it reaches the server, and is carried out, and the connection
    breaks before its answer. "lose_commit": the connection breaks before it. "hold": the client's
    side breaks, and the commit stays here until `send_held`.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: list[tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.mode = "pass"
        self.decides: Callable[[bytes], bool] = _commits_with_the_row
        self.on_decision: Callable[[], None] = lambda: None
        self.is_down = False
        self.port = 0

    def __enter__(self) -> PostgresProxy:
        self._thread.start()
        self.port = self._do(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def send_held(self) -> bytes:
        """Send on what is held; what the server answered, until it was done."""
        answers: bytes = self._do(self._send_held())
        return answers

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    async def _listen(self) -> int:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def _end(self) -> None:
        self._listener.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, _, up in self._held:
            up.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        keeps_up = False
        if self.is_down:
            writer.close()
            self._tasks.discard(task)
            return
        server, up = await asyncio.open_connection("127.0.0.1", self._server_port)
        back = asyncio.ensure_future(self._pump(server, writer))
        try:
            while data := await reader.read(_CHUNK):
                mode = self.mode if self.decides(data) else "pass"
                if mode == "pass":
                    up.write(data)
                    await up.drain()
                    continue
                self.mode = "pass"
                back.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await back
                if mode == "lose_answer":
                    up.write(data)
                    await _until_idle(server)
                elif mode == "hold":
                    self._held.append((data, server, up))
                    keeps_up = True
                self.on_decision()
                return
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            back.cancel()
            writer.close()
            if not keeps_up:
                up.close()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                writer.write(data)
                await writer.drain()
            writer.close()

    async def _send_held(self) -> bytes:
        answers = b""
        while self._held:
            data, server, up = self._held.pop()
            up.write(data)
            answers += await _until_idle(server)
            up.close()
        return answers


def _commits_with_the_row(data: bytes) -> bool:
    """Whether this is the last text of a store's own deciding transaction."""
    writes = b"INSERT INTO unanimity_decisions" in data and b"'ABORT'" not in data
    return writes and b";COMMIT" in data


async def _until_idle(server: asyncio.StreamReader) -> bytes:
    """What the server sends until it is ready for the next query outside of a transaction."""
    answers = b""
    while not any(answers.endswith(b"Z\0\0\0\5" + state) for state in (b"I", b"E")):
        answers += await server.read(_CHUNK)
    return answers
