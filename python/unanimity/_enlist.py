"""A user's own open transaction that decides: committed together with the row of the decision.

Behind `Transaction.enlist`. Not a database layer and not a pool: it uses the connection that it is
given, of asyncpg, psycopg or SQLAlchemy, and gives it back with nothing open on it.

Invariants: the row and the user's statements are one transaction of the database, looked at by its
number; "refused" is said only when nothing can have been committed; what is not known is raised,
and the engine reads the row.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from ._enlist_drivers import OpenConnection, connection_of
from ._exceptions import ConfigError
from .stores import PostgresStore

_FACTS = (
    "SELECT to_regclass('unanimity_decisions')::oid::text, "
    "(SELECT oid::text FROM pg_database WHERE datname = current_database()), "
    "(SELECT system_identifier::text FROM pg_control_system())"
)
_NUMBER = "SELECT pg_backend_pid()::text, pg_current_xact_id()::text"
_DURABLY = (
    "SELECT set_config('synchronous_commit', 'on', true) "
    "WHERE current_setting('synchronous_commit') = 'off'"
)
_ROW = (
    "INSERT INTO unanimity_decisions (cluster_id, coordination_id, decision, store_name, read_only)"
    " VALUES (?, ?, 'COMMIT', ?, ?)"
)
# A constraint that is checked at the commit, a serialization failure: rolled back for certain.
_CERTAIN = ("23", "40")


def store_to_enlist(stores: dict[str, Any], name: str | None) -> str:
    """The store in whose place a connection decides, by its name or because there is one."""
    able = [
        known
        for known, store in stores.items()
        if isinstance(store, PostgresStore) and store.last_resource is not False
    ]
    if name is None and len(able) == 1:
        return able[0]
    if name in able:
        return str(name)
    shown = ", ".join(repr(known) for known in able) or "none"
    raise ConfigError(
        f"enlist() needs the PostgreSQL store that has the connection's database and is given "
        f'last_resource="auto" or True; store is {name!r}, and such stores are: {shown}'
    )


class EnlistedTransaction:
    """A transaction on somebody's connection, from `enlist` to its commit or rollback."""

    def __init__(self, connection: Any, store: str) -> None:
        """Look at the connection; nothing is sent."""
        self.store = store
        self.was_asked = False
        self._open: OpenConnection | None = connection_of(connection)
        self._number: Sequence[Any] = ()

    async def begin(self, store: PostgresStore) -> None:
        """Begin the transaction, after seeing that it is idle and at the store's database."""
        connection = self._open
        assert connection is not None
        connection.check_idle()
        theirs = await store.fetch(_FACTS)
        await connection.begin()
        try:
            ours = await connection.row(_FACTS)
            if list(ours) != list(theirs[0].values()) or ours[0] is None:
                raise ConfigError(
                    f"the connection does not see the table unanimity_decisions of the store "
                    f"'{self.store}'; enlist one of the same database, with the same search_path"
                )
            self._number = await connection.row(_NUMBER)
        except BaseException:
            await self.roll_back()
            raise

    async def decide(self, cluster: str, coordination: str, store: str, read_only: str) -> object:
        """Commit with the row; the engine calls it once, when all others have prepared."""
        self.was_asked = True
        connection = self._open
        if connection is None:
            return "refused", "its transaction was rolled back before"
        try:
            await connection.flush()
            if list(await connection.row(_NUMBER)) != list(self._number):
                raise RuntimeError(
                    "the transaction that was enlisted has ended; commit and rollback are done on "
                    "leaving the block of service.transaction()"
                )
            await connection.run(_DURABLY)
            await connection.run(_ROW, cluster, coordination, store, read_only)
        except Exception as error:
            await self.roll_back()
            return "refused", f"{type(error).__name__}: {error}"
        try:
            await connection.commit()
        except BaseException as error:
            await self.roll_back()
            if _state_of(error)[:2] in _CERTAIN:
                return "refused", f"{type(error).__name__}: {error}"
            raise
        self._open = None
        return "committed"

    async def roll_back(self) -> None:
        """Leave nothing open; a connection that cannot be rolled back is closed."""
        connection, self._open = self._open, None
        if connection is None:
            return
        try:
            await asyncio.shield(connection.roll_back())
        except BaseException as error:
            with contextlib.suppress(Exception):
                await connection.close()
            if not isinstance(error, Exception):
                raise


def _state_of(error: BaseException) -> str:
    """The SQLSTATE, also of an error inside of SQLAlchemy's."""
    for one in (error, getattr(error, "orig", None)):
        state = getattr(one, "sqlstate", None)
        if isinstance(state, str):
            return state
    return ""
