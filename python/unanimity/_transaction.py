"""`async with service.transaction() as tx`: operations gathered, then coordinated on leaving.

Not a database transaction: nothing is sent before the block ends, and nothing at all when it
raises. A connection of the user's own may be enlisted: what is done on it meanwhile commits with
everything else. Invariants: leaving without an exception means that the commit stands; leaving in
any way leaves nothing open on an enlisted connection.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._types import CoordinationRequest, CoordinationResult, Outcome

if TYPE_CHECKING:
    from ._enlist import EnlistedTransaction
    from ._service import CoordinationService


class Transaction:
    """What is to be done as one; `result` is there once the block was left."""

    def __init__(self, service: CoordinationService, request: CoordinationRequest) -> None:
        """Hold the request; `CoordinationService.transaction` makes it."""
        self._service = service
        self._request = request
        self._left = False
        self._enlisted: EnlistedTransaction | None = None
        self.result: CoordinationResult | None = None

    @property
    def coordination_id(self) -> str:
        """The id under which this can be found again."""
        return self._request.coordination_id

    def add(self, store: str, type: str, **fields: Any) -> str:
        """Add an operation for a store; the answer is its operation id."""
        self._check_inside()
        request = self._request
        operation = {"store": store, "type": type, **fields}
        # The engine gives the same id to an operation that brings none.
        operation_id = fields.get("operation_id") or f"{self.coordination_id}:" + str(
            len(request.operations)
        )
        request.operations.append(operation)
        if store not in request.participating_stores:
            request.participating_stores.append(store)
        return str(operation_id)

    async def enlist(self, connection: Any, store: str | None = None) -> None:
        """Make what is done on this connection from here on a part of the transaction.

        `connection` is one of asyncpg or psycopg, or a connection or session of SQLAlchemy (each
        async or plain), to the database of a PostgreSQL store of the service with
        `last_resource="auto"` or True; `store` names it, and may be left out where there is one.
        No transaction may be open on it. On leaving the block it is committed, with the row that
        is the decision, when everything else has prepared; or rolled back. Do not commit or roll
        back yourself.
        """
        from ._enlist import EnlistedTransaction, store_to_enlist

        self._check_inside()
        if self._enlisted is not None:
            raise RuntimeError(
                f"a connection is enlisted for the store '{self._enlisted.store}' already, and one "
                "alone decides; work on that one, or give the other's statements to its store "
                "with add()"
            )
        await self._service._ready()
        name = store_to_enlist(self._service.stores, store)
        enlisted = EnlistedTransaction(connection, name)
        await enlisted.begin(self._service.stores[name])
        self._enlisted = enlisted

    def _check_inside(self) -> None:
        if self._left:
            raise RuntimeError(
                f"the transaction {self.coordination_id} has ended; "
                "add operations inside its `async with` block"
            )

    async def __aenter__(self) -> Transaction:
        if self._left:
            raise RuntimeError("a transaction is used once; ask the service for another one")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left = True
        if self._enlisted is not None:
            if kind is not None:
                return await self._enlisted.roll_back()
            return await self._coordinate(self._enlisted)
        # Nothing added is nothing to do: a loop over no rows is no mistake.
        if kind is not None or not self._request.operations:
            return
        self.result = await self._service.coordinate_transaction(self._request)
        self.result.raise_for_state()

    async def _coordinate(self, enlisted: EnlistedTransaction) -> None:
        stores = self._request.participating_stores
        if enlisted.store not in stores:
            stores.append(enlisted.store)
        run = asyncio.ensure_future(self._service._coordinate(self._request, enlisted))
        try:
            self.result = await asyncio.shield(run)
        except asyncio.CancelledError:
            # The connection is its caller's again behind this, so nothing may use it any more.
            await self._service.abort_coordination(self.coordination_id, "its caller was cancelled")
            self.result = await run
            raise
        finally:
            # In doubt: the row tells, and what is not committed must not stay open.
            await enlisted.roll_back()
        self.result.raise_for_state()
        if not enlisted.was_asked and self.result.outcome is Outcome.COMMITTED:
            raise RuntimeError(
                f"the transaction {self.coordination_id} was committed by an earlier run, and what "
                "was done on the enlisted connection now was rolled back; use a new coordination_id"
            )

    def __repr__(self) -> str:
        state = self.result.final_state.value if self.result else "not sent"
        return f"Transaction({self.coordination_id!r}, {state})"
