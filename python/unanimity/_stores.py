"""What a store is: the interface, its requests and answers, and how any object becomes a store.

Not the stores written in Rust: those are in `unanimity.stores`.
Invariants: only what a coordination type needs must be there, so no method is abstract; one that
is missing, or only inherited from here, is refused by name before anything is asked.
"""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

_MISSING = "__unanimity_missing__"
_Method = TypeVar("_Method", bound=Callable[..., Any])


class FencingToken(int):
    """A lock's fencing token, which also knows how the lock is held: a value of `LockType`."""

    lock_type: str

    def __new__(cls, token: int, lock_type: str = "exclusive") -> FencingToken:
        """Make a token of this number."""
        made = super().__new__(cls, token)
        made.lock_type = lock_type
        return made

    def __reduce__(self) -> tuple[type[FencingToken], tuple[int, str]]:
        """Keep the lock's type in a copy."""
        return FencingToken, (int(self), self.lock_type)


@dataclass
class PrepareRequest:
    """The question "can you commit this?", with this store's operations as the caller gave them.

    `fencing_tokens` has, for each resource that the coordination has locked, the token of the
    lock; it is empty where none is locked. A store can refuse (vote "ABORT") one whose lock was
    lost without its knowing it: remember, durably and before the vote, the highest token of each
    resource and lock type, and refuse a token that is lower than that of a lock type which it does
    not go together with. `int` is enough for exclusive locks; each value also has a `lock_type`,
    such as "exclusive" or "intent_exclusive". The stores of `unanimity.stores` do this themselves.

    `metadata` has the trace of a coordination that is traced, as W3C headers (`traceparent`,
    `tracestate`), for a store that lives elsewhere; in this process the span is the current one.
    """

    transaction_id: str
    operations: list[dict[str, Any]]
    timeout_seconds: float
    fencing_tokens: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class PrepareResult:
    """A vote: "COMMIT", "ABORT", or "READ_ONLY" (nothing to commit, no second phase)."""

    store_name: str
    vote: str
    reason: str | None = None


@dataclass
class CommitResult:
    """The answer to commit: "SUCCESS", or "FAILED" as the store's final word."""

    store_name: str
    status: str
    error_message: str | None = None


@dataclass
class AbortResult:
    """The answer to abort: "SUCCESS", or "FAILED" as the store's final word."""

    store_name: str
    status: str
    error_message: str | None = None


@dataclass
class OperationRequest:
    """One operation to carry out or to undo; `context` has the results of earlier ones.

    `metadata` is as that of `PrepareRequest`.
    """

    transaction_id: str
    operation_id: str
    operation: dict[str, Any]
    attempt: int
    context: dict[str, Any]
    timeout_seconds: float
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class OperationResult:
    """The answer to an operation: "SUCCESS" or "FAILED"."""

    store_name: str
    status: str
    result: Any = None
    error_message: str | None = None
    retryable: bool = True


@dataclass
class Event:
    """One entry of a stream."""

    stream_id: str
    version: int
    event_type: str
    data: dict[str, Any]
    metadata: dict[str, Any]
    global_position: int
    recorded_at: datetime


def _missing(method: _Method) -> _Method:
    """Mark a default that only says that the store has no such method."""
    setattr(method, _MISSING, True)
    return method


class IStorageStore(ABC):
    """A store that takes part in coordinations.

    Duties, in the order in which they are asked. Prepare applies or stages everything durably,
    so that commit cannot fail for a foreseeable reason, and then votes. Commit makes it visible,
    abort undoes it; both may be asked again, and for a transaction the store never saw.
    `list_prepared_transactions` names what is prepared and undecided, so that nothing is left
    behind by a crash. Methods may be plain functions; those run in threads of their own.
    """

    store_name: str

    prepared_list_is_exclusive: bool = False
    """Whether `list_prepared_transactions` names only what was prepared through one journal.

    Declare True where no other service prepares anything in this store under another journal (or
    the list leaves that out). Then a begin record need not be on disk before the store is asked,
    which saves a disk flush in each transaction, and what a crash left prepared without a record
    is rolled back at once. Declared wrongly, another service's prepared work is rolled back.
    """

    compensable_operations: Collection[str] = ()
    """Types of operations that `compensate_operation` undoes without being told how.

    A list, tuple or set, looked at when a service starts. A saga's operation of such a type needs
    no `compensation`.
    """

    compensation_types: Collection[str] | None = None
    """The types that an operation's `compensation` may have, None for any.

    A list, tuple or set, looked at when a service starts. A `Saga` with another one is refused
    before anything is done.
    """

    @_missing
    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        """Stage the operations durably and vote."""
        raise self._lacks("prepare_transaction")

    @_missing
    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Make what was prepared visible; acknowledge again when asked again."""
        raise self._lacks("commit_transaction")

    @_missing
    async def abort_transaction(self, transaction_id: str) -> AbortResult:
        """Undo what was prepared; acknowledge an id that is not known."""
        raise self._lacks("abort_transaction")

    @_missing
    async def execute_operation(self, request: OperationRequest) -> OperationResult:
        """Carry out one operation at once, durably, and answer with its result, plain JSON.

        Asked again, with the same transaction and operation id, it should do nothing more and
        give the first result. "FAILED", or raising `Permanent`, says that there was no effect;
        anything else that is raised says that nobody knows, and the operation is tried again.
        """
        raise self._lacks("execute_operation")

    @_missing
    async def compensate_operation(self, request: OperationRequest) -> OperationResult:
        """Undo one operation that was carried out, or may have been; asked again, do nothing.

        `request.context` has the operation's own result under its id, if that is known.
        """
        raise self._lacks("compensate_operation")

    @_missing
    async def apply_event(self, event: Event) -> None:
        """Bring one event into the store; events come one at a time, in their global order.

        What is raised is tried again, and parks the projection in the end; `Permanent` parks it at
        once. An event may come again, after a crash, and all of them do when the projection is
        rebuilt: keep `event.global_position` with the change, or make changes that bear it.
        """
        raise self._lacks("apply_event")

    @_missing
    async def list_prepared_transactions(self) -> list[str]:
        """Name what is prepared and undecided; nothing where the store cannot tell."""
        return []

    @_missing
    async def close(self) -> None:
        """Let go of files and connections. What is prepared stays prepared."""
        return None

    def _lacks(self, method: str) -> NotImplementedError:
        name = getattr(self, "store_name", type(self).__name__)
        return NotImplementedError(f"the store '{name}' has no {method}(); add it to use it so")


@dataclass(frozen=True)
class PythonStore:
    """Any object, seen as a store: its bound methods, None where it has none of its own."""

    name: str
    store: object
    prepare: Callable[..., Any] | None
    commit: Callable[..., Any] | None
    abort: Callable[..., Any] | None
    list_prepared: Callable[..., Any] | None
    close: Callable[..., Any] | None
    execute: Callable[..., Any] | None
    compensate: Callable[..., Any] | None
    apply: Callable[..., Any] | None
    prepare_is_async: bool
    commit_is_async: bool
    abort_is_async: bool
    list_is_async: bool
    close_is_async: bool
    execute_is_async: bool
    compensate_is_async: bool
    apply_is_async: bool
    compensable: set[str]
    compensation_types: set[str] | None
    list_is_exclusive: bool

    @classmethod
    def adapt(cls, name: str, store: object) -> PythonStore:
        """Look at what the object has."""
        prepare = own_method(store, "prepare_transaction")
        commit = own_method(store, "commit_transaction")
        abort = own_method(store, "abort_transaction")
        list_prepared = own_method(store, "list_prepared_transactions")
        close = own_method(store, "close")
        execute = own_method(store, "execute_operation")
        compensate = own_method(store, "compensate_operation")
        apply = own_method(store, "apply_event")
        return cls(
            name,
            store,
            prepare,
            commit,
            abort,
            list_prepared,
            close,
            execute,
            compensate,
            apply,
            prepare_is_async=is_async(prepare),
            commit_is_async=is_async(commit),
            abort_is_async=is_async(abort),
            list_is_async=is_async(list_prepared),
            close_is_async=is_async(close),
            execute_is_async=is_async(execute),
            compensate_is_async=is_async(compensate),
            apply_is_async=is_async(apply),
            compensable=_types_in(store, "compensable_operations") or set(),
            compensation_types=_types_in(store, "compensation_types"),
            list_is_exclusive=getattr(store, "prepared_list_is_exclusive", False) is True,
        )


def _types_in(store: object, attribute: str) -> set[str] | None:
    """The types that an attribute names, None where it says nothing."""
    named = getattr(store, attribute, None)
    # Anything else, such as what a mock has under every name, says nothing.
    return set(map(str, named)) if isinstance(named, (list, tuple, set, frozenset)) else None


def own_method(store: object, name: str) -> Callable[..., Any] | None:
    """The bound method, None where there is none or only the interface's default."""
    method = getattr(store, name, None)
    if not callable(method) or getattr(method, _MISSING, False) is True:
        return None
    found: Callable[..., Any] = method
    return found


def is_async(method: Callable[..., Any] | None) -> bool:
    """Whether a call gives a coroutine, so that it must run on the event loop."""
    if method is None:
        return False
    if inspect.iscoroutinefunction(method):
        return True
    if inspect.isfunction(method) or inspect.ismethod(method):
        return False
    # An object whose call is async, as a decorator written as a class gives.
    return inspect.iscoroutinefunction(getattr(type(method), "__call__", None))  # noqa: B004
