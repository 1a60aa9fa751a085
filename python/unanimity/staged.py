"""A store that can do no more than read, write and delete one key, made fit for coordinations.

    class Vectors(StagedStore):
        def read(self, key): ...
        def write(self, key, value): ...
        def delete(self, key): ...

What the weak store lacks stands in a *staging area*, a SQLite file beside it: what is prepared, who
holds which key, what was committed or undone, and what an operation gave the first time.
Invariants: a vote, an end and an intent are on disk before they are answered; between the intent to
change a key and the mark that it is changed nobody else may touch that key, so that doing it again
after a crash overwrites nothing; `write` and `delete` are done again after a crash, and so must
bear repetition, which setting and removing a value do.
"""

from __future__ import annotations

import json
import os
import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from . import _bridge
from ._exceptions import ConfigError
from ._staging import CarriedStaging, Change, Held, Refused, Staging
from ._stores import (
    AbortResult,
    CommitResult,
    IStorageStore,
    OperationRequest,
    OperationResult,
    PrepareRequest,
    PrepareResult,
)

__all__ = ["StagedStore"]

_Answer = TypeVar("_Answer")
_STRIPES = 64


class StagedStore(IStorageStore):
    """Key-value over anything with an upsert: put, delete and check, in two phases and in steps.

    Everybody who writes into the store has to go through it; what is written past it is neither
    checked nor waited for. The three methods are plain functions; they run in threads, for
    different keys at once. A change is visible from the moment `write` returns, key by key, so a
    reader may see half of a commit that is under way.

    `staging` is the path of the staging area, one for each store; it must lie on a disk that lasts
    as long as the store. Where there is no such disk give None, and write `load_staging` and
    `save_staging`: the whole area is then one text that the store keeps, saved anew with each
    change, for one process at a time and a few thousand transactions a day.
    """

    def __init__(self, staging: str | os.PathLike[str] | None, name: str = "staged") -> None:
        """Open the staging area, or make it."""
        self.store_name = name
        self._staging = (
            CarriedStaging(self.load_staging, self.save_staging)
            if staging is None
            else Staging(staging)
        )
        # One at a time for each transaction: a commit that is asked twice at once is done once.
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]

    # ---- what a user's store brings -----------------------------------------------------------

    @abstractmethod
    def read(self, key: str) -> Any:
        """Give the value of a key, None where it has none."""

    @abstractmethod
    def write(self, key: str, value: Any) -> None:
        """Set the value of a key, durably; again is the same."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a key, durably; one that has no value is fine."""

    def load_staging(self) -> str | None:
        """Give the text that was saved last, None at first; only asked where there is no file."""
        raise ConfigError(
            f"the store '{self.store_name}' has neither a path for its staging area nor "
            "load_staging() and save_staging(); give one or write the other"
        )

    def save_staging(self, text: str) -> None:
        """Keep the text durably, in place of the last one, whole or not at all."""
        self.load_staging()

    # ---- the duties ---------------------------------------------------------------------------

    async def get(self, key: str) -> Any:
        """Read the committed value of a key, None where there is none."""
        return await _in_thread(self.read, key)

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        """Stage the operations, hold their keys, and vote."""
        return await _in_thread(self._prepare, request)

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Write what was staged."""
        return await _in_thread(self._commit, transaction_id)

    async def abort_transaction(self, transaction_id: str) -> AbortResult:
        """Drop what was staged."""
        return await _in_thread(self._abort, transaction_id)

    async def list_prepared_transactions(self) -> list[str]:
        """Name what is staged and undecided."""
        return await _in_thread(self._staging.prepared)

    async def execute_operation(self, request: OperationRequest) -> OperationResult:
        """Carry out one operation; its result is `{"existed": bool}`."""
        return await _in_thread(self._execute, request)

    async def compensate_operation(self, request: OperationRequest) -> OperationResult:
        """Carry out the operation's own `compensation`, if the operation was done."""
        return await _in_thread(self._compensate, request)

    async def close(self) -> None:
        """Close the staging area. What is prepared stays prepared."""
        await _in_thread(self._staging.close)

    # ---- two phases ---------------------------------------------------------------------------

    def _prepare(self, request: PrepareRequest) -> PrepareResult:
        if not request.operations:
            return PrepareResult(self.store_name, "READ_ONLY")
        transaction_id, operations = request.transaction_id, request.operations
        with self._turn(transaction_id):
            try:
                keys = {_key_of(operation) for operation in operations}
                # Held first, then read: nobody changes what a check has seen.
                self._staging.begin_prepare(transaction_id, keys, request.fencing_tokens)
                try:
                    changes = self._changes(operations)
                except BaseException:
                    self._staging.give_up_prepare(transaction_id)
                    raise
                self._staging.stage(transaction_id, changes)
            except Refused as refused:
                return PrepareResult(self.store_name, "ABORT", str(refused))
        return PrepareResult(self.store_name, "COMMIT")

    def _commit(self, transaction_id: str) -> CommitResult:
        with self._turn(transaction_id):
            state = self._staging.state(transaction_id)
            if state == "prepared":
                state = self._staging.begin_commit(transaction_id)
            if state == "committing":
                for change in self._staging.changes(transaction_id):
                    self._apply(change)
                self._staging.end_commit(transaction_id)
                state = "committed"
        if state == "committed":
            return CommitResult(self.store_name, "SUCCESS")
        words = f"it was {state} here" if state else "it was never prepared here"
        return CommitResult(self.store_name, "FAILED", words)

    def _abort(self, transaction_id: str) -> AbortResult:
        with self._turn(transaction_id):
            if self._staging.abort(transaction_id):
                return AbortResult(self.store_name, "SUCCESS")
        return AbortResult(self.store_name, "FAILED", "its commit was begun here")

    def _changes(self, operations: list[dict[str, Any]]) -> list[Change]:
        """What is left to write once every check has held; later ones see earlier ones."""
        last: dict[str, Change] = {}
        for operation in operations:
            key = _key_of(operation)
            seen = last[key].value if key in last else self.read(key)
            change = _change_of(operation, seen)
            if change is not None:
                last[key] = change
        return list(last.values())

    def _apply(self, change: Change) -> None:
        if change.value is None:
            self.delete(change.key)
        else:
            self.write(change.key, change.value)

    def _turn(self, transaction_id: str) -> threading.Lock:
        return self._stripes[hash(transaction_id) % _STRIPES]

    # ---- steps --------------------------------------------------------------------------------

    def _execute(self, request: OperationRequest) -> OperationResult:
        with self._turn(request.transaction_id):
            step = (request.transaction_id, request.operation_id)
            if self._staging.is_done(step, "compensate"):
                return self._failed("it was undone before it came", is_final=True)
            return self._do(step, "execute", request.operation)

    def _compensate(self, request: OperationRequest) -> OperationResult:
        with self._turn(request.transaction_id):
            step = (request.transaction_id, request.operation_id)
            if self._staging.is_done(step, "compensate"):
                return OperationResult(self.store_name, "SUCCESS")
            # One that was under way when the process died is brought to its end, then undone.
            intent = self._staging.intent(step, "execute")
            if intent is not None:
                self._finish(step, "execute", intent)
            undoing = request.operation.get("compensation")
            if undoing is None or not self._staging.is_done(step, "execute"):
                self._staging.release(_holder(step, "execute"))
                self._staging.skip(step, "compensate")
                return OperationResult(self.store_name, "SUCCESS")
            return self._do(step, "compensate", undoing)

    def _do(self, step: tuple[str, str], work: str, operation: dict[str, Any]) -> OperationResult:
        if not self._staging.is_done(step, work):
            intent = self._staging.intent(step, work)
            try:
                if intent is None:
                    intent = self._intend(step, work, operation)
            except Refused as refused:
                return self._failed(str(refused), is_final=not isinstance(refused, Held))
            self._finish(step, work, intent)
        return OperationResult(self.store_name, "SUCCESS", self._staging.result(step, work))

    def _intend(self, step: tuple[str, str], work: str, operation: dict[str, Any]) -> list[Change]:
        """Hold the key and write down what will be done and answered."""
        holder, key = _holder(step, work), _key_of(operation)
        self._staging.hold(holder, {key})
        try:
            seen = self.read(key)
            change = _change_of(operation, seen)
        except BaseException:
            self._staging.release(holder)
            raise
        changes = [] if change is None else [change]
        self._staging.intend(step, work, changes, {"existed": seen is not None})
        return changes

    def _finish(self, step: tuple[str, str], work: str, changes: list[Change]) -> None:
        for change in changes:
            self._apply(change)
        self._staging.done(step, work, _holder(step, work))

    def _failed(self, words: str, is_final: bool) -> OperationResult:
        return OperationResult(self.store_name, "FAILED", None, words, retryable=not is_final)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.store_name!r})"


async def _in_thread(function: Callable[..., _Answer], *arguments: Any) -> _Answer:
    answer: _Answer = await _bridge.in_thread(function, *arguments)
    return answer


def _holder(step: tuple[str, str], work: str) -> str:
    return f"{work}:{step[0]}/{step[1]}"


def _key_of(operation: dict[str, Any]) -> str:
    key = operation.get("key")
    if not isinstance(key, str) or not key:
        raise Refused(f"the operation's key is {key!r}; give a str that is not empty")
    return key


def _change_of(operation: dict[str, Any], seen: Any) -> Change | None:
    """What an operation changes, given the value that it sees; None for a check that holds."""
    kind, key = operation.get("type"), _key_of(operation)
    if kind == "delete":
        return Change(key, None)
    if kind == "put":
        return Change(key, _checked_value(operation))
    if kind != "check":
        raise Refused(f"there is no operation {kind!r}; there are put, delete and check")
    if "exists" in operation and (seen is not None) is not bool(operation["exists"]):
        raise Refused(f"{key} {'exists' if seen is not None else 'does not exist'}")
    if "value" in operation and seen != operation["value"]:
        raise Refused(f"{key} is {seen!r}, and not {operation['value']!r}")
    if "exists" not in operation and "value" not in operation:
        raise Refused(f"the check of {key} says neither value nor exists")
    return None


def _checked_value(operation: dict[str, Any]) -> Any:
    value = operation.get("value")
    if value is None:
        raise Refused(f"the value to put under {operation['key']} is missing; use delete")
    if "$result" in str(value):
        raise Refused("this store does not know $result; let an operation of Python give the value")
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise Refused(
            f"the value of {operation['key']} cannot be staged as JSON: {error}"
        ) from None
    return value
