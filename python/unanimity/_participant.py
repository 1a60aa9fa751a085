"""A store made of functions: what a saga's step does, and what undoes it.

Not the interface (`_stores`) and not the bridge: a participant is a store like a user's own.
Invariants: what a function raises goes on as it is, traceback and all; a plain function runs in a
thread of the bridge, in a copy of the caller's context; an operation that nobody registered had no
effect and says which ones there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import update_wrapper
from typing import Any

from ._exceptions import ConfigError
from ._stores import IStorageStore, OperationRequest, OperationResult, is_async

__all__ = ["Participant", "ParticipantOperation"]

Handler = Callable[[OperationRequest], Any]
"""Async or plain: takes the request, returns a value that JSON can hold, raises to fail."""


class ParticipantOperation:
    """A registered operation; calling it calls the function."""

    __name__: str

    def __init__(self, participant: Participant, type: str, handler: Handler) -> None:
        """Keep the function; `Participant.operation` makes this."""
        self.participant = participant
        self.type = type
        self.handler = handler
        self.run = _awaitable(handler)
        self.undo: Handler | None = None
        """What undoes it, to be awaited; None where nothing was registered."""
        update_wrapper(self, handler)

    def __call__(self, request: OperationRequest) -> Any:
        """Call the function itself, as a test of it would."""
        return self.handler(request)

    def compensation(self, handler: Handler) -> Handler:
        """Register, as a decorator, the function that undoes this operation.

        It may be asked again, and also when nobody knows whether the operation was done. Its
        request is the operation's own, and `request.context` has what the operation gave, under
        its id, if that is known.
        """
        _check_handler(handler, f"the compensation of '{self.type}'")
        if self.undo is not None:
            raise ConfigError(
                f"participant '{self.participant.store_name}': the operation '{self.type}' has a "
                f"compensation already, {_name_of(self.undo)}()"
            )
        self.undo = _awaitable(handler)
        return handler

    def __repr__(self) -> str:
        return f"<operation '{self.type}' of {self.participant!r}>"


class Participant(IStorageStore):
    """A store whose operations are functions, async or plain.

        payments = Participant("payments")

        @payments.operation("charge")
        async def charge(request):
            return {"charge": await bank.charge(request.operation["amount"])}

        @charge.compensation
        async def refund(request):
            await bank.refund(request.operation_id)

    What a function returns is the operation's result, plain JSON, and later operations find it in
    `request.context`; an `OperationResult` is taken as it is. Raising says that nobody knows
    whether it had an effect: it is tried again, so a function should do nothing more when it is
    asked again under the same `operation_id`. Raising `Permanent` says that there was no effect
    and that trying again is of no use.

    An operation may bring a `compensation` of its own, whose `type` is one of these operations:
    that one is then called with the compensation as its `operation`.
    """

    def __init__(self, name: str) -> None:
        """Make a participant without operations; `name` is for messages."""
        self.store_name = _checked_name(name, "name")
        self._operations: dict[str, ParticipantOperation] = {}

    @property
    def operations(self) -> dict[str, ParticipantOperation]:
        """What is registered, by type."""
        return dict(self._operations)

    @property
    def compensable_operations(self) -> Collection[str]:  # type: ignore[override]
        """The types that know how to be undone."""
        return [type for type, found in self._operations.items() if found.undo is not None]

    @property
    def compensation_types(self) -> Collection[str] | None:  # type: ignore[override]
        """The types that an operation's own `compensation` may have: all that are registered."""
        return list(self._operations)

    def operation(self, type: str) -> Callable[[Handler], ParticipantOperation]:
        """Register a function, as a decorator, for operations of this type."""
        _checked_name(type, "the operation's type")

        def register(handler: Handler) -> ParticipantOperation:
            _check_handler(handler, f"the operation '{type}'")
            if type in self._operations:
                raise ConfigError(
                    f"participant '{self.store_name}' has an operation '{type}' already, "
                    f"{_name_of(self._operations[type].handler)}()"
                )
            made = self._operations[type] = ParticipantOperation(self, type, handler)
            return made

        return register

    async def execute_operation(self, request: OperationRequest) -> OperationResult:
        """Call the function that is registered for the operation's type."""
        type = request.operation["type"]
        found = self._operations.get(type)
        if found is None:
            return self._unknown(f"operation '{type}'")
        return self._result_of(await found.run(request))

    async def compensate_operation(self, request: OperationRequest) -> OperationResult:
        """Call the function that undoes the operation: its own compensation's, or the type's."""
        undoing = request.operation.get("compensation")
        if undoing is None and "compensation" in request.operation:
            return OperationResult(self.store_name, "SUCCESS")
        if undoing is not None:
            found = self._operations.get(undoing.get("type"))
            if found is None:
                return self._unknown(f"operation {undoing.get('type')!r} to compensate with")
            return self._result_of(await found.run(replace(request, operation=undoing)))
        type = request.operation["type"]
        found = self._operations.get(type)
        if found is None or found.undo is None:
            return self._unknown(f"compensation for the operation '{type}'")
        return self._result_of(await found.undo(request))

    def _result_of(self, result: Any) -> OperationResult:
        if isinstance(result, OperationResult):
            return result
        return OperationResult(self.store_name, "SUCCESS", result)

    def _unknown(self, what: str) -> OperationResult:
        known = ", ".join(repr(type) for type in sorted(self._operations)) or "none"
        message = f"participant '{self.store_name}' has no {what}; its operations are: {known}"
        return OperationResult(self.store_name, "FAILED", None, message, retryable=False)

    def __repr__(self) -> str:
        return f"Participant({self.store_name!r}, operations={sorted(self._operations)})"


def _checked_name(name: object, what: str) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= 128:
        raise ConfigError(f"{what} is {name!r}; give a str of 1 to 128 characters")
    return name


def _awaitable(handler: Handler) -> Handler:
    """What can be awaited: the function itself, or a plain one in a thread."""
    if is_async(handler):
        return handler

    async def run(request: OperationRequest) -> Any:
        # Late, because whoever only declares operations need not load asyncio.
        from ._bridge import in_thread

        return await in_thread(handler, request)

    return update_wrapper(run, handler)


def _check_handler(handler: object, what: str) -> None:
    if not callable(handler):
        raise ConfigError(f"{what} is {handler!r}; give a function, async or plain")


def _name_of(handler: Handler) -> str:
    return str(getattr(handler, "__qualname__", None) or repr(handler))
