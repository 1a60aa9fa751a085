"""One honest store with a file of its own, and stores that each break one duty of it.

For the tests of the kit alone: each class says in its docstring what is wrong with it. Invariant:
apart from that it is as honest as `HonestStore`.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

from unanimity import (
    AbortResult,
    CommitResult,
    OperationRequest,
    OperationResult,
    PrepareRequest,
    PrepareResult,
)

Operations = list[dict[str, Any]]


class HonestStore:
    """Key-value: the whole state is one JSON file, replaced and synced before an answer."""

    def __init__(self, path: str, name: str = "honest") -> None:
        self.store_name = name
        self._path = Path(path)
        self._lock = threading.RLock()
        self.values: dict[str, str] = {}
        self.staged: dict[str, Operations] = {}
        self.ended: dict[str, str] = {}
        self.steps: dict[str, Any] = {}
        if self._path.exists():
            self.__dict__.update(json.loads(self._path.read_text()))

    def get(self, key: str) -> str | None:
        return self.values.get(key)

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        transaction_id = request.transaction_id
        with self._lock:
            if trouble := self._trouble(transaction_id, request.operations):
                return PrepareResult(self.store_name, "ABORT", trouble)
            self.staged[transaction_id] = request.operations
            self._save()
        return PrepareResult(self.store_name, "COMMIT")

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        with self._lock:
            if transaction_id in self.staged:
                self._apply(self.staged.pop(transaction_id))
                self.ended[transaction_id] = "committed"
                self._save()
            if self.ended.get(transaction_id) != "committed":
                return CommitResult(self.store_name, "FAILED", "it was never prepared")
        return CommitResult(self.store_name, "SUCCESS")

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        with self._lock:
            if self.ended.get(transaction_id) == "committed":
                return AbortResult(self.store_name, "FAILED", "it was committed")
            self.staged.pop(transaction_id, None)
            self.ended[transaction_id] = "aborted"
            self._save()
        return AbortResult(self.store_name, "SUCCESS")

    def list_prepared_transactions(self) -> list[str]:
        with self._lock:
            return list(self.staged)

    def execute_operation(self, request: OperationRequest) -> OperationResult:
        with self._lock:
            done = self.steps.get(request.operation_id)
            if done == "undone":
                return self._failed("it was undone already")
            if done is None:
                if trouble := self._trouble("", [request.operation]):
                    return self._failed(trouble)
                done = {"before": self.values.get(request.operation["key"])}
                self._apply([request.operation])
                self.steps[request.operation_id] = done
                self._save()
        return OperationResult(self.store_name, "SUCCESS", done)

    def compensate_operation(self, request: OperationRequest) -> OperationResult:
        with self._lock:
            done = self.steps.get(request.operation_id)
            if done != "undone":
                if done is not None:
                    self._apply([request.operation["compensation"]])
                self.steps[request.operation_id] = "undone"
                self._save()
        return OperationResult(self.store_name, "SUCCESS")

    def _failed(self, trouble: str) -> OperationResult:
        return OperationResult(self.store_name, "FAILED", None, trouble, retryable=False)

    def _trouble(self, transaction_id: str, operations: Operations) -> str:
        for operation in operations:
            if operation["type"] not in ("put", "delete"):
                return f"there is no operation {operation['type']}"
        if self.ended.get(transaction_id) is not None:
            return f"it was {self.ended[transaction_id]} already"
        held = {
            operation["key"]
            for other, staged in self.staged.items()
            if other != transaction_id
            for operation in staged
        }
        busy = held & {operation["key"] for operation in operations}
        return f"{sorted(busy)} is being changed by another transaction" if busy else ""

    def _apply(self, operations: Operations) -> None:
        for operation in operations:
            if operation["type"] == "put":
                self.values[operation["key"]] = operation["value"]
            else:
                self.values.pop(operation["key"], None)

    def _state(self) -> dict[str, Any]:
        names = ("values", "staged", "ended", "steps")
        return {name: getattr(self, name) for name in names}

    def _save(self) -> None:
        draft = self._path.with_suffix(".draft")
        with draft.open("w") as file:
            json.dump(self._state(), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)


class Eager(HonestStore):
    """Makes the change when it is asked to prepare."""

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        answer = super().prepare_transaction(request)
        if answer.vote == "COMMIT":
            self._apply(request.operations)
        return answer


class Repeating(HonestStore):
    """Does a commit as often as it is asked."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.kept: dict[str, Operations] = {}

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        self.kept.setdefault(transaction_id, self.staged.get(transaction_id, []))
        self._apply(self.kept[transaction_id])
        return super().commit_transaction(transaction_id)


class Holding(HonestStore):
    """An abort undoes the change, and the key stays locked."""

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        if transaction_id in self.staged:
            self.staged[f"ghost of {transaction_id}"] = self.staged[transaction_id]
        return super().abort_transaction(transaction_id)


class Startled(HonestStore):
    """Raises when it is told to abort what it does not know."""

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        if transaction_id not in self.staged and transaction_id not in self.ended:
            raise KeyError(transaction_id)
        return super().abort_transaction(transaction_id)


class Resurrecting(HonestStore):
    """Commits what was aborted."""

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        self.steps[f"grave {transaction_id}"] = self.staged.get(transaction_id)
        return super().abort_transaction(transaction_id)

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        if operations := self.steps.get(f"grave {transaction_id}"):
            self._apply(operations)
        return super().commit_transaction(transaction_id)


class Undoing(HonestStore):
    """An abort takes away what was committed."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.kept: dict[str, Operations] = {}

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        self.kept.setdefault(transaction_id, self.staged.get(transaction_id, []))
        return super().commit_transaction(transaction_id)

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        for operation in self.kept.get(transaction_id, []):
            self.values.pop(operation["key"], None)
        return super().abort_transaction(transaction_id)


class YesSayer(HonestStore):
    """Votes COMMIT for operations that it does not know, and skips them."""

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        known = [one for one in request.operations if one["type"] in ("put", "delete")]
        return super().prepare_transaction(PrepareRequest(request.transaction_id, known, 1))


class Listing(HonestStore):
    """Names what was committed long ago as prepared."""

    def list_prepared_transactions(self) -> list[str]:
        return [*self.staged, *self.ended]


class Losing(HonestStore):
    """Reads the whole state, lets others run, and writes it back: updates get lost."""

    async def prepare_transaction(  # type: ignore[override]
        self, request: PrepareRequest
    ) -> PrepareResult:
        return super().prepare_transaction(request)

    async def abort_transaction(  # type: ignore[override]
        self, transaction_id: str
    ) -> AbortResult:
        return super().abort_transaction(transaction_id)

    async def commit_transaction(  # type: ignore[override]
        self, transaction_id: str
    ) -> CommitResult:
        values = dict(self.values)
        await asyncio.sleep(0)
        operations = self.staged.get(transaction_id, [])
        answer = super().commit_transaction(transaction_id)
        if operations:
            self.values = values
            self._apply(operations)
            self._save()
        return answer


class InMemory(HonestStore):
    """Votes COMMIT, and has what it staged in memory only."""

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "staged": {}}

    def close(self) -> None:
        Path(f"{self._path}.staged").write_text(json.dumps(self.staged))

    def __init__(self, path: str) -> None:
        super().__init__(path)
        # Closed in peace it is honest; only a kill shows it.
        left = Path(f"{path}.staged")
        if left.exists():
            self.staged = json.loads(left.read_text())
            left.unlink()


class LateToDisk(HonestStore):
    """Acknowledges a commit that is not on disk before its next call or its close."""

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        with self._lock:
            if transaction_id not in self.staged:
                return super().commit_transaction(transaction_id)
            on_disk = json.loads(self._path.read_text())["values"]
            self._apply(self.staged.pop(transaction_id))
            self.ended[transaction_id] = "committed"
            # The marker goes to the disk, the values do not.
            self.values, kept = on_disk, self.values
            self._save()
            self.values = kept
        return CommitResult(self.store_name, "SUCCESS")

    def close(self) -> None:
        self._save()


class Torn(HonestStore):
    """A commit has its marker and first change on disk; the rest gets there some calls later."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.late: list[str] = []

    def _apply(self, operations: Operations) -> None:
        super()._apply(operations)
        self.late = [*self.late, *(operation["key"] for operation in operations[1:])][-3:]

    def _state(self) -> dict[str, Any]:
        on_disk = {key: value for key, value in self.values.items() if key not in self.late}
        return {**super()._state(), "values": on_disk}

    def close(self) -> None:
        self.late = []
        self._save()


class ClosingAborts(HonestStore):
    """Drops what is prepared when it is closed."""

    def close(self) -> None:
        self.staged = {}
        self._save()


class Doubling(HonestStore):
    """Does an operation again when it is asked again."""

    def execute_operation(self, request: OperationRequest) -> OperationResult:
        if isinstance(self.steps.get(request.operation_id), dict):
            del self.steps[request.operation_id]
        return super().execute_operation(request)


class UndoingBlindly(HonestStore):
    """Undoes what was never done."""

    def compensate_operation(self, request: OperationRequest) -> OperationResult:
        if request.operation_id not in self.steps:
            self._apply([request.operation["compensation"]])
        return super().compensate_operation(request)


class TakingLate(HonestStore):
    """Does an operation though it was undone before it came."""

    def execute_operation(self, request: OperationRequest) -> OperationResult:
        if self.steps.get(request.operation_id) == "undone":
            del self.steps[request.operation_id]
        return super().execute_operation(request)


class Trying(HonestStore):
    """Says of an operation that it cannot do that it may be tried again."""

    def _failed(self, trouble: str) -> OperationResult:
        return OperationResult(self.store_name, "FAILED", None, trouble)


class Truthy(HonestStore):
    """Answers True."""

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        super().prepare_transaction(request)
        return True  # type: ignore[return-value]


class Silent(HonestStore):
    """Never answers an abort of what it does not know."""

    async def abort_transaction(  # type: ignore[override]
        self, transaction_id: str
    ) -> AbortResult:
        if transaction_id not in self.staged and transaction_id not in self.ended:
            await asyncio.get_running_loop().create_future()
        return super().abort_transaction(transaction_id)


class Impatient(HonestStore):
    """Says FAILED when it is told to abort what it aborted before."""

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        if self.ended.get(transaction_id) == "aborted":
            return AbortResult(self.store_name, "FAILED", "I said so already")
        return super().abort_transaction(transaction_id)


class Puzzled(HonestStore):
    """Raises when it is told to commit what it does not know."""

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        if transaction_id not in self.staged and transaction_id not in self.ended:
            raise KeyError(transaction_id)
        return super().commit_transaction(transaction_id)


class Stacking(HonestStore):
    """Keeps what is prepared twice twice, and ends one of the two."""

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        again = self.staged.get(request.transaction_id, []) and request.operations
        answer = super().prepare_transaction(request)
        self.staged[request.transaction_id] = self.staged.get(request.transaction_id, []) + again
        return answer

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        rest = self.staged.get(transaction_id, [])[1:]
        answer = super().commit_transaction(transaction_id)
        if len(rest) == 1 and rest[0]["value"] == "one":
            self.staged[transaction_id] = rest
        return answer


class Reviving(HonestStore):
    """Prepares what was aborted, and takes the next abort for a repeated one."""

    def _trouble(self, transaction_id: str, operations: Operations) -> str:
        return super()._trouble("", operations)

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        if self.ended.get(transaction_id) == "aborted":
            return AbortResult(self.store_name, "SUCCESS")
        return super().abort_transaction(transaction_id)


class Racing(HonestStore):
    """Sees an abort that came while it prepared, votes ABORT, and leaves what it staged."""

    async def prepare_transaction(  # type: ignore[override]
        self, request: PrepareRequest
    ) -> PrepareResult:
        answer = super().prepare_transaction(request)
        while answer.vote == "COMMIT" and request.transaction_id in self.staged:
            await asyncio.sleep(0)
            if not self.is_aborting(request.transaction_id):
                break
            self.staged[request.transaction_id] = request.operations
            return PrepareResult(self.store_name, "ABORT", "it was aborted meanwhile")
        return answer

    def is_aborting(self, transaction_id: str) -> bool:
        return transaction_id in self.steps.get("aborting", [])

    async def abort_transaction(  # type: ignore[override]
        self, transaction_id: str
    ) -> AbortResult:
        if transaction_id in self.staged:
            self.steps.setdefault("aborting", []).append(transaction_id)
        return super().abort_transaction(transaction_id)


class Smearing(HonestStore):
    """Has one slot for each key, which a refused transaction fills too."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.slots: dict[str, str] = {}

    async def prepare_transaction(  # type: ignore[override]
        self, request: PrepareRequest
    ) -> PrepareResult:
        for operation in request.operations:
            self.slots[operation["key"]] = operation.get("value", "")
        return super().prepare_transaction(request)

    async def commit_transaction(  # type: ignore[override]
        self, transaction_id: str
    ) -> CommitResult:
        keys = [operation["key"] for operation in self.staged.get(transaction_id, [])]
        answer = super().commit_transaction(transaction_id)
        self.values.update({key: self.slots[key] for key in keys if key in self.slots})
        return answer


class Jealous(HonestStore):
    """Says FAILED to whoever asks for a commit that is under way."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.under_way: set[str] = set()

    async def commit_transaction(  # type: ignore[override]
        self, transaction_id: str
    ) -> CommitResult:
        if transaction_id in self.under_way:
            return CommitResult(self.store_name, "FAILED", "somebody else does it")
        self.under_way.add(transaction_id)
        await asyncio.sleep(0)
        self.under_way.discard(transaction_id)
        return super().commit_transaction(transaction_id)


class Idle(HonestStore):
    """Says that an operation is done, and does nothing."""

    def execute_operation(self, request: OperationRequest) -> OperationResult:
        return OperationResult(self.store_name, "SUCCESS")


class NotUndoing(HonestStore):
    """Remembers that an operation was undone, and does not undo it."""

    def compensate_operation(self, request: OperationRequest) -> OperationResult:
        self.steps[request.operation_id] = "undone"
        return OperationResult(self.store_name, "SUCCESS")


class UndoingAgain(HonestStore):
    """Undoes as often as it is asked."""

    def compensate_operation(self, request: OperationRequest) -> OperationResult:
        if request.operation_id in self.steps:
            self._apply([request.operation["compensation"]])
        return super().compensate_operation(request)


class LosingSteps(HonestStore):
    """Reads the whole state, lets others run, and writes it back when it executes."""

    async def execute_operation(  # type: ignore[override]
        self, request: OperationRequest
    ) -> OperationResult:
        values = dict(self.values)
        await asyncio.sleep(0)
        is_new = request.operation_id not in self.steps
        answer = super().execute_operation(request)
        if is_new and answer.status == "SUCCESS":
            self.values = values
            self._apply([request.operation])
        return answer

    async def compensate_operation(  # type: ignore[override]
        self, request: OperationRequest
    ) -> OperationResult:
        return super().compensate_operation(request)


class Leaking(HonestStore):
    """Frees the keys of what this process prepared, and of nothing that another one did."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.own: set[str] = set()

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        self.own.add(request.transaction_id)
        return super().prepare_transaction(request)

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        staged = self.staged.get(transaction_id)
        answer = super().abort_transaction(transaction_id)
        if staged and transaction_id not in self.own:
            self.staged[f"ghost of {transaction_id}"] = staged
        return answer


class StepsInMemory(HonestStore):
    """Does an operation durably, and remembers only in memory that it did."""

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "steps": {}}


class HalfHearted(HonestStore):
    """Commits the first operation of a transaction, and no other."""

    def _apply(self, operations: Operations) -> None:
        super()._apply(operations[:1])


class Filing(HonestStore):
    """Has a file for each transaction, which bears its id."""

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        Path(f"{self._path}.{request.transaction_id}").touch()
        return super().prepare_transaction(request)
