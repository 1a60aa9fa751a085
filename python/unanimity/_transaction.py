"""`async with service.transaction() as tx`: operations gathered, then coordinated on leaving.

Not a database transaction: nothing is sent before the block ends, and nothing at all when it
raises. Invariant: leaving without an exception means that the commit stands.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._types import CoordinationRequest, CoordinationResult

if TYPE_CHECKING:
    from ._service import CoordinationService


class Transaction:
    """What is to be done as one; `result` is there once the block was left."""

    def __init__(self, service: CoordinationService, request: CoordinationRequest) -> None:
        """Hold the request; `CoordinationService.transaction` makes it."""
        self._service = service
        self._request = request
        self._left = False
        self.result: CoordinationResult | None = None

    @property
    def coordination_id(self) -> str:
        """The id under which this can be found again."""
        return self._request.coordination_id

    def add(self, store: str, type: str, **fields: Any) -> str:
        """Add an operation for a store; the answer is its operation id."""
        if self._left:
            raise RuntimeError(
                f"the transaction {self.coordination_id} has ended; "
                "add operations inside its `async with` block"
            )
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
        # Nothing added is nothing to do: a loop over no rows is no mistake.
        if kind is not None or not self._request.operations:
            return
        self.result = await self._service.coordinate_transaction(self._request)
        self.result.raise_for_state()

    def __repr__(self) -> str:
        state = self.result.final_state.value if self.result else "not sent"
        return f"Transaction({self.coordination_id!r}, {state})"
