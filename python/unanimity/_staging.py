"""The staging area of a `StagedStore`: one SQLite file with what the weak store cannot keep.

Not the store. Each method is one short SQLite transaction, on disk when it returns; several
processes may have the file open. Invariants: a key has one holder; a transaction's row outlives it
for some days, so that a late question finds how it ended.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_DAYS_KEPT = 30
_PURGE_EVERY = 256
_PURGED_MAX = 256
_BUSY_SECONDS = 30

_SCHEMA = """
CREATE TABLE IF NOT EXISTS held (key TEXT PRIMARY KEY, holder TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS held_by ON held (holder);
CREATE TABLE IF NOT EXISTS transactions (id TEXT PRIMARY KEY, state TEXT NOT NULL,
    changes TEXT NOT NULL, changed_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steps (transaction_id TEXT, operation_id TEXT, work TEXT,
    is_done INTEGER NOT NULL, changes TEXT NOT NULL, result TEXT,
    changed_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (transaction_id, operation_id, work)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fences (resource TEXT, mode TEXT, token INTEGER NOT NULL,
    PRIMARY KEY (resource, mode)) WITHOUT ROWID;
"""

# Gray's matrix: which modes go together.
_TOGETHER = {
    "exclusive": (),
    "shared": ("shared", "intent_shared"),
    "intent_exclusive": ("intent_exclusive", "intent_shared"),
    "intent_shared": ("shared", "intent_exclusive", "intent_shared"),
}


class Refused(Exception):
    """It cannot be done, and nothing is kept."""


class Held(Refused):
    """Somebody else has the key; later it may be free."""


@dataclass(frozen=True)
class Change:
    """A key and its new value; None takes it away."""

    key: str
    value: Any


class Staging:
    """The file, and one connection to it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file, or make it."""
        # Absolute, so that a later change of the working directory changes nothing.
        self._path = os.path.abspath(os.fspath(path))  # noqa: PTH100
        # Every use of the connection is under it; it is never held while the store works.
        self._lock = threading.Lock()
        self._connection = _connect(self._path)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_SCHEMA)
        self._ended = 0

    def _saved(self) -> None:
        """Called when a change is made and not committed yet; what is raised takes it back."""

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._saved()
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _all(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(statement, parameters).fetchall()

    # ---- transactions -------------------------------------------------------------------------

    def hold(self, holder: str, keys: Iterable[str]) -> None:
        """Take keys for a holder, all of them or none."""
        with self._transaction() as connection:
            _take(connection, holder, keys)

    def release(self, holder: str) -> None:
        """Give back what a holder took."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM held WHERE holder = ?", (holder,))

    def begin_prepare(
        self, transaction_id: str, keys: Iterable[str], tokens: Mapping[str, int]
    ) -> None:
        """Take a transaction's keys, after a look at its fencing tokens.

        It is listed from here on, so that what a crash leaves of it is aborted.
        """
        for resource, token in sorted(tokens.items()):
            self._check_fence(resource, token)
        insert = "INSERT OR IGNORE INTO transactions (id, state, changes) VALUES (?, ?, '[]')"
        with self._transaction() as connection:
            connection.execute(insert, (transaction_id, "preparing"))
            state = _state(connection, transaction_id)
            if state not in ("preparing", "prepared"):
                raise Refused(f"the transaction was {state} here already")
            _take(connection, transaction_id, keys)

    def give_up_prepare(self, transaction_id: str) -> None:
        """Keep nothing of a prepare that is refused; one that was voted before stays."""
        with self._transaction() as connection:
            if _state(connection, transaction_id) == "preparing":
                connection.execute("DELETE FROM transactions WHERE id = ?", (transaction_id,))
                connection.execute("DELETE FROM held WHERE holder = ?", (transaction_id,))

    def stage(self, transaction_id: str, changes: list[Change]) -> None:
        """Make the vote durable; a second one changes nothing."""
        update = (
            "UPDATE transactions SET state = 'prepared', changes = ? "
            "WHERE id = ? AND state = 'preparing'"
        )
        with self._transaction() as connection:
            connection.execute(update, (_text_of(changes), transaction_id))

    def state(self, transaction_id: str) -> str | None:
        """`prepared`, `committing`, `committed`, `aborted`; None where nothing was voted."""
        with self._lock:
            state = _state(self._connection, transaction_id)
        return None if state == "preparing" else state

    def changes(self, transaction_id: str) -> list[Change]:
        """What a transaction staged."""
        rows = self._all("SELECT changes FROM transactions WHERE id = ?", transaction_id)
        return _changes_of(rows[0][0]) if rows else []

    def prepared(self) -> list[str]:
        """Name what is begun and undecided, or decided and not written to its end."""
        select = (
            "SELECT id FROM transactions WHERE state IN ('preparing', 'prepared', 'committing') "
            "ORDER BY id"
        )
        return [str(row[0]) for row in self._all(select)]

    def begin_commit(self, transaction_id: str) -> str:
        """Note that from here on nothing is aborted."""
        update = "UPDATE transactions SET state = 'committing' WHERE id = ?"
        with self._transaction() as connection:
            connection.execute(update, (transaction_id,))
        return "committing"

    def end_commit(self, transaction_id: str) -> None:
        """Note that all is written, drop what was staged, and free the keys."""
        with self._transaction() as connection:
            self._end(connection, transaction_id, "committed")

    def abort(self, transaction_id: str) -> bool:
        """Undo what is prepared and refuse what comes late; False where its commit was begun."""
        with self._transaction() as connection:
            if _state(connection, transaction_id) in ("committing", "committed"):
                return False
            self._end(connection, transaction_id, "aborted")
        return True

    def _end(self, connection: sqlite3.Connection, transaction_id: str, state: str) -> None:
        connection.execute(
            "INSERT INTO transactions (id, state, changes) VALUES (?1, ?2, '[]') "
            "ON CONFLICT (id) DO UPDATE SET state = ?2, changes = '[]', "
            "changed_at = CURRENT_TIMESTAMP",
            (transaction_id, state),
        )
        connection.execute("DELETE FROM held WHERE holder = ?", (transaction_id,))
        self._purge(connection)

    def _purge(self, connection: sqlite3.Connection) -> None:
        """Now and then drop a portion of what ended long ago."""
        self._ended += 1
        if self._ended % _PURGE_EVERY:
            return
        old = f"changed_at < datetime('now', '-{_DAYS_KEPT} days')"
        connection.execute(
            f"DELETE FROM transactions WHERE id IN (SELECT id FROM transactions "
            f"WHERE state IN ('committed', 'aborted') AND {old} LIMIT {_PURGED_MAX})"
        )
        connection.execute(f"DELETE FROM steps WHERE is_done AND {old}")

    def _check_fence(self, resource: str, token: int) -> None:
        """Refuse who comes with the token of a lock that was lost; remember the others."""
        mode = str(getattr(token, "lock_type", "exclusive"))
        with self._transaction() as connection:
            select = "SELECT mode, token FROM fences WHERE resource = ?"
            for other, highest in connection.execute(select, (resource,)).fetchall():
                if int(token) < highest and other not in _TOGETHER[mode]:
                    raise Refused(
                        f"the lock on '{resource}' was lost: a later holder has the {other} "
                        f"token {highest}, and this one shows the {mode} token {int(token)}"
                    )
            connection.execute(
                "INSERT INTO fences VALUES (?1, ?2, ?3) "
                "ON CONFLICT DO UPDATE SET token = max(token, ?3)",
                (resource, mode, int(token)),
            )

    # ---- steps --------------------------------------------------------------------------------

    def is_done(self, step: tuple[str, str], work: str) -> bool:
        """Whether an operation was done, or undone, to its end."""
        return any(row[0] for row in self._step(step, work))

    def intent(self, step: tuple[str, str], work: str) -> list[Change] | None:
        """What was begun and not marked as done; None where nothing is."""
        for is_done, changes, _ in self._step(step, work):
            if not is_done:
                return _changes_of(changes)
        return None

    def result(self, step: tuple[str, str], work: str) -> Any:
        """What it gave the first time."""
        for _, _, result in self._step(step, work):
            return json.loads(result)
        return None

    def intend(self, step: tuple[str, str], work: str, changes: list[Change], result: Any) -> None:
        """Write down what will be done, before it is done."""
        self._insert(step, work, 0, changes, result)

    def done(self, step: tuple[str, str], work: str, holder: str) -> None:
        """Mark it as done and free its key."""
        update = (
            "UPDATE steps SET is_done = 1 "
            "WHERE transaction_id = ? AND operation_id = ? AND work = ?"
        )
        with self._transaction() as connection:
            connection.execute(update, (*step, work))
            connection.execute("DELETE FROM held WHERE holder = ?", (holder,))
            self._purge(connection)

    def skip(self, step: tuple[str, str], work: str) -> None:
        """Mark as done what has nothing to do."""
        self._insert(step, work, 1, [], None)

    def _step(self, step: tuple[str, str], work: str) -> list[tuple[Any, ...]]:
        select = (
            "SELECT is_done, changes, result FROM steps "
            "WHERE transaction_id = ? AND operation_id = ? AND work = ?"
        )
        return self._all(select, *step, work)

    def _insert(
        self, step: tuple[str, str], work: str, is_done: int, changes: list[Change], result: Any
    ) -> None:
        insert = (
            "INSERT OR IGNORE INTO steps (transaction_id, operation_id, work, is_done, changes, "
            "result) VALUES (?, ?, ?, ?, ?, ?)"
        )
        with self._transaction() as connection:
            row = (*step, work, is_done, _text_of(changes), json.dumps(result))
            connection.execute(insert, row)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


class CarriedStaging(Staging):
    """The staging area as one text, which the store itself keeps: for one process at a time.

    What is saved may be ahead of what is committed here, when `save` raises though it saved; the
    next change overwrites it, as after a crash.
    """

    def __init__(self, load: Callable[[], str | None], save: Callable[[str], None]) -> None:
        """Read what was saved."""
        self._lock = threading.Lock()
        self._save = save
        self._connection = _connect(":memory:")
        self._connection.executescript(load() or _SCHEMA)
        self._ended = 0

    def _saved(self) -> None:
        self._save("\n".join(self._connection.iterdump()))


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None
    )


def _state(connection: sqlite3.Connection, transaction_id: str) -> str | None:
    select = "SELECT state FROM transactions WHERE id = ?"
    row = connection.execute(select, (transaction_id,)).fetchone()
    return None if row is None else str(row[0])


def _take(connection: sqlite3.Connection, holder: str, keys: Iterable[str]) -> None:
    for key in keys:
        connection.execute("INSERT OR IGNORE INTO held VALUES (?, ?)", (key, holder))
        select = "SELECT holder FROM held WHERE key = ?"
        (other,) = connection.execute(select, (key,)).fetchone()
        if other != holder:
            raise Held(f"{key} is being changed by {other}; try again when it has ended")


def _text_of(changes: list[Change]) -> str:
    return json.dumps([[change.key, change.value] for change in changes])


def _changes_of(text: str) -> list[Change]:
    return [Change(key, value) for key, value in json.loads(text)]
