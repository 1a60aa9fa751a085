"""Group commit in plain Python: a thread takes what waits, makes it durable, and answers it all.

The yardstick of a journal: what can be had without one. Two ways to make it durable: an appended
file with one `fdatasync` for each batch, or SQLite with one commit for each batch.
Invariant: an answer is given after the batch that holds its record is durable.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

_Waiting = list[tuple[str, "asyncio.Future[None]"]]


class GroupCommit:
    """Takes records on the event loop; `write` makes a batch durable in a thread."""

    def __init__(self, write: Callable[[list[str]], None]) -> None:
        """Start the thread."""
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._waiting: _Waiting = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="group-commit")
        self._thread.start()

    def append(self, record: str) -> asyncio.Future[None]:
        """Queue a record; the future is done when it is durable."""
        future: asyncio.Future[None] = self._loop.create_future()
        with self._changed:
            self._waiting.append((record, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Write what waits and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._write([record for record, _ in batch])
            self._loop.call_soon_threadsafe(_answer, batch)

    def _next_batch(self) -> _Waiting:
        """Wait for records and take them all; nothing once it is closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            batch, self._waiting = self._waiting, []
        return batch


def _answer(batch: _Waiting) -> None:
    for _, future in batch:
        if not future.done():
            future.set_result(None)


def into_file(path: Path) -> Callable[[list[str]], None]:
    """Append to a file, with one `fdatasync` for each batch."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(records: list[str]) -> None:
        os.write(descriptor, "".join(records).encode())
        os.fdatasync(descriptor)

    return write


def decisions_database(path: Path) -> sqlite3.Connection:
    """Open a file for decisions; each commit is on the disk before it returns."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE decision (id TEXT NOT NULL, decision TEXT NOT NULL)")
    return connection


def into_sqlite(path: Path) -> Callable[[list[str]], None]:
    """Insert into SQLite, with one commit for each batch."""
    connection = decisions_database(path)

    def write(records: list[str]) -> None:
        connection.execute("BEGIN")
        rows = [(record,) for record in records]
        connection.executemany("INSERT INTO decision VALUES (?, 'COMMIT')", rows)
        connection.execute("COMMIT")

    return write
