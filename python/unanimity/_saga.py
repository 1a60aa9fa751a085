"""A saga, put together step by step: its request, its check beforehand, its picture.

Not the running: that is the engine's, by the request. Invariants: the request means what the
picture shows; what is wrong is said before anything runs, with the step and how to mend it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from . import _saga_check, _saga_picture
from ._exceptions import InvalidRequest
from ._ids import mint
from ._types import CoordinationRequest, CoordinationResult, CoordinationType
from ._views.coordinations import saga_view
from ._views.model import View
from ._views.viewed import Drawn

if TYPE_CHECKING:
    from ._service import CoordinationService

__all__ = ["Saga", "SagaStep"]

# What is said by arguments, so that it is said once.
_OWN_KEYS = ("store", "type", "operation_id", "depends_on", "compensation", "pivot")


@dataclass(frozen=True)
class SagaStep:
    """A step of a saga, to name it by: in `after`, and in the context of later steps."""

    operation_id: str
    index: int
    saga: Saga

    def __repr__(self) -> str:
        return f"<step '{self.operation_id}' of saga '{self.saga.coordination_id}'>"


class Saga(Drawn):
    """Steps that are done one after the other, or side by side, and undone if one fails.

        saga = Saga("trip-42")
        flight = saga.step("flights", "book", {"seat": "12A"}, compensation={"type": "cancel"})
        hotel = saga.step("hotels", "reserve", {"nights": 2}, after=[])
        saga.pivot("payments", "charge", {"amount": 90}, after=[flight, hotel])
        result = await saga.run(service)

    A step without `after` comes after the one before it; `after=[]` is for one that waits for none.
    Behind the pivot there is no way back: what comes after it is tried until it is done. A step
    that may be done before the pivot needs a way to be undone: a `compensation`, an operation of
    the same store; None where there is nothing to undo; or a store that knows by itself.
    """

    def __init__(self, coordination_id: str | None = None) -> None:
        """Begin a saga without steps; an id is minted where none is given."""
        self.coordination_id = mint() if coordination_id is None else coordination_id
        self._operations: list[dict[str, Any]] = []

    @classmethod
    def of(cls, described: Any) -> Saga:
        """The saga that a request or a record describes, to be checked and drawn."""
        saga = cls(described.coordination_id)
        for index, operation in enumerate(described.operations):
            known = {"operation_id": f"{saga.coordination_id}:{index}", **operation}
            saga._operations.append(known)
        return saga

    @property
    def operations(self) -> list[dict[str, Any]]:
        """The operations, as the request has them."""
        return [dict(operation) for operation in self._operations]

    def step(
        self,
        store: str,
        type: str,
        fields: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        after: Iterable[SagaStep | str] | None = None,
        compensation: Mapping[str, Any] | EllipsisType | None = ...,
        max_retries: int | None = None,
        timeout_seconds: float | None = None,
    ) -> SagaStep:
        """Add an operation of a store.

        `fields` are the operation's own. `compensation` undoes it; None says that there is nothing
        to undo, and leaving it out that the store knows. `timeout_seconds` is for one try.
        """
        operation = self._operation(store, type, fields, id)
        if after is not None:
            operation["depends_on"] = self._ids(after, operation["operation_id"])
        if not isinstance(compensation, EllipsisType):
            operation["compensation"] = None if compensation is None else dict(compensation)
        if max_retries is not None:
            operation["max_retries"] = max_retries
        if timeout_seconds is not None:
            operation["timeout_seconds"] = timeout_seconds
        self._operations.append(operation)
        return SagaStep(operation["operation_id"], len(self._operations) - 1, self)

    def pivot(
        self,
        store: str,
        type: str,
        fields: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        after: Iterable[SagaStep | str] | None = None,
        compensation: Mapping[str, Any] | EllipsisType | None = ...,
        max_retries: int | None = None,
        timeout_seconds: float | None = None,
    ) -> SagaStep:
        """Add the step behind which there is no way back. It needs no compensation.

        Where nobody knows whether it was done, and its tries are spent, it is undone if that can
        be, and waits for an operator if it cannot.
        """
        step = self.step(
            store,
            type,
            fields,
            id=id,
            after=after,
            compensation=compensation,
            max_retries=max_retries,
            timeout_seconds=timeout_seconds,
        )
        self._operations[step.index]["pivot"] = True
        return step

    def check(self, stores: Mapping[str, Any] | None = None) -> None:
        """Raise InvalidRequest if it cannot run.

        With `stores`, those of a service, also where they lack a way to undo a step.
        """
        _saga_check.check(self.coordination_id, self._operations, stores)

    def request(
        self,
        *,
        timeout_seconds: int = 300,
        consistency_level: str = "strong",
        metadata: dict[str, Any] | None = None,
    ) -> CoordinationRequest:
        """Make the request, checked as far as it can be without the stores."""
        self.check()
        stores = dict.fromkeys(operation["store"] for operation in self._operations)
        return CoordinationRequest(
            self.coordination_id,
            CoordinationType.SAGA_ORCHESTRATION,
            list(stores),
            self.operations,
            timeout_seconds,
            consistency_level,
            {} if metadata is None else metadata,
        )

    async def run(
        self,
        service: CoordinationService,
        *,
        timeout_seconds: int = 300,
        consistency_level: str = "strong",
        metadata: dict[str, Any] | None = None,
    ) -> CoordinationResult:
        """Check it against the service's stores, run it, and say how it ended.

        The same saga again joins the one that runs, or gives its result.
        """
        self.check(service.stores)
        request = self.request(
            timeout_seconds=timeout_seconds,
            consistency_level=consistency_level,
            metadata=metadata,
        )
        return await service.coordinate_transaction(request)

    def to_text(self, record: Any = None) -> str:
        """Draw it for a terminal; with what `describe` gave, how far it came."""
        return _saga_picture.text(self.coordination_id, self._operations, record)

    def to_svg(self, record: Any = None) -> str:
        """Draw it as an SVG document; with what `describe` gave, the path that was taken."""
        return _saga_picture.svg(self.coordination_id, self._operations, record)

    def _view(self) -> View:
        return saga_view(self)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"Saga({self.coordination_id!r}, {len(self._operations)} steps)"

    def _operation(
        self, store: str, type: str, fields: Mapping[str, Any] | None, id: str | None
    ) -> dict[str, Any]:
        # The engine gives the same id to an operation that brings none.
        name = f"{self.coordination_id}:{len(self._operations)}" if id is None else id
        given = {} if fields is None else dict(fields)
        for key in _OWN_KEYS:
            if key in given:
                raise InvalidRequest(
                    f"step '{name}' has '{key}' among its fields; say it by an argument of step()",
                    coordination_id=self.coordination_id,
                )
        return {"store": store, "type": type, "operation_id": name, **given}

    def _ids(self, after: Iterable[SagaStep | str], name: str) -> list[str]:
        if isinstance(after, (str, SagaStep)):
            raise InvalidRequest(
                f"step '{name}' has after={after!r}; give a list of steps or of their ids",
                coordination_id=self.coordination_id,
            )
        ids = []
        for step in after:
            if isinstance(step, SagaStep) and step.saga is not self:
                raise InvalidRequest(
                    f"step '{name}' comes after {step!r}, which is of another saga",
                    coordination_id=self.coordination_id,
                )
            ids.append(step.operation_id if isinstance(step, SagaStep) else step)
        return ids
