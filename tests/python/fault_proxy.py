"""A TCP proxy before the nodes of a cluster: it delays, holds back and cuts what goes between two.

Not a model of packets, and of no use with TLS: it learns who calls from the greeting, which is
plain with a secret or without one. A node listens at its own port and tells others the port of the
proxy. Invariants: rules are about a sender and a receiver, whichever of them opened the connection,
and hold for what is under way as well; after `close()` nothing of it is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, TypeVar

_OPENING_BYTES = 8
_FRAME_HEAD_BYTES = 8
_CHUNK = 65_536
_Answer = TypeVar("_Answer")

Pair = tuple[str, str]


class FaultProxy:
    """The way between the nodes; it runs on a thread of its own and is told from any other."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[asyncio.Server] = []
        self._held: set[Pair] = set()
        self._delays: dict[Pair, float] = {}
        self._cut: set[Pair] = set()
        self._open: dict[asyncio.Task[None], Pair] = {}
        self._changed = asyncio.Event()

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- told from the tests ----------------------------------------------------------------

    def before(self, node_id: str, port: int) -> int:
        """Stand before the node that listens at a local port; at which port others find it."""
        return self._do(self._listen(node_id, port))

    def cut(self, one: str, other: str) -> None:
        """Break what is open between the two, and let nothing new come to be."""
        self._do(self._set_cut({(one, other), (other, one)}))

    def isolate(self, node_id: str, others: Iterable[str]) -> None:
        """Cut a node off from the others."""
        pairs = {(node_id, other) for other in others} | {(other, node_id) for other in others}
        self._do(self._set_cut(pairs))

    def hold(self, sender: str, receiver: str) -> None:
        """Let nothing more of the sender reach the receiver, as if packets were lost."""
        self._do(self._set_rule(lambda: self._held.add((sender, receiver))))

    def delay(self, sender: str, receiver: str, seconds: float) -> None:
        """Let everything of the sender reach the receiver later."""
        self._do(self._set_rule(lambda: self._delays.update({(sender, receiver): seconds})))

    def heal(self) -> None:
        """Take every rule back; what was held goes on its way."""

        def forget() -> None:
            self._held.clear()
            self._delays.clear()
            self._cut.clear()

        self._do(self._set_rule(forget))

    def close(self) -> None:
        """End everything."""
        if self._thread.is_alive():
            self._do(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _do(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    # ---- on the proxy's own thread ----------------------------------------------------------

    async def _listen(self, node_id: str, port: int) -> int:
        async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await self._link(node_id, port, reader, writer)
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(taken, "127.0.0.1", 0)
        self._servers.append(server)
        front: int = server.sockets[0].getsockname()[1]
        return front

    async def _set_cut(self, pairs: set[Pair]) -> None:
        self._cut |= pairs
        for task, pair in list(self._open.items()):
            if pair in pairs:
                task.cancel()

    async def _set_rule(self, change: Any) -> None:
        change()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        own = asyncio.current_task()
        # A second round for what was accepted in the first. Sockets close in a round of theirs.
        for _ in range(2):
            tasks = [task for task in asyncio.all_tasks() if task is not own]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

    async def _link(
        self,
        node_id: str,
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Pass the greeting on until it is known who calls; then one pump in each direction."""
        near, far = await asyncio.open_connection("127.0.0.1", port)
        try:
            far.write(await reader.readexactly(_OPENING_BYTES))
            writer.write(await near.readexactly(1))
            head = await reader.readexactly(_FRAME_HEAD_BYTES)
            body = await reader.readexactly(struct.unpack("<I", head[:4])[0])
            caller = _caller_of(body)
            if (caller, node_id) in self._cut:
                return
            far.write(head + body)
            pumps = [
                self._pumping(reader, far, (caller, node_id)),
                self._pumping(near, writer, (node_id, caller)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        finally:
            far.transport.abort()

    def _pumping(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: Pair
    ) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._pump(reader, writer, pair))
        self._open[task] = pair
        task.add_done_callback(lambda ended: self._open.pop(ended, None))
        return task

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: Pair
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                if delay := self._delays.get(pair):
                    await asyncio.sleep(delay)
                while pair in self._held:
                    await self._changed.wait()
                writer.write(chunk)
                await writer.drain()


def _caller_of(hello: bytes) -> str:
    """The id of the caller: the second text of its hello, behind that of its cluster."""
    (cluster_bytes,) = struct.unpack_from("<H", hello)
    (id_bytes,) = struct.unpack_from("<H", hello, 2 + cluster_bytes)
    begin = 4 + cluster_bytes
    return hello[begin : begin + id_bytes].decode()
