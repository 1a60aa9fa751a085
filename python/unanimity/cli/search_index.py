"""A small search index with a file of its own: a Python store, complete, to read and to copy.

The file is a log of JSON lines: `stage` holds operations, `apply` makes them visible, `drop`
forgets them. Each line is on disk before its method returns, so a kill at any moment loses nothing
that was answered. Its methods are plain functions; the service runs them in threads.
Invariants: no two staged transactions touch one key; a torn last line was never answered.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from .._exceptions import StoreError
from .._stores import AbortResult, CommitResult, PrepareRequest, PrepareResult

Operations = list[dict[str, Any]]


class SearchIndex:
    """Maps a document's key to its entry: {"type": "index", "key": ..., "entry": {...}}."""

    def __init__(self, path: str | os.PathLike[str], name: str = "index") -> None:
        """Open the file, or make it, and read what it says."""
        self.store_name = name
        self._path = Path(path)
        # Methods run in several threads at once; every read and write of the state is under it.
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, Any]] = {}
        self._staged: dict[str, Operations] = {}
        self._applied: set[str] = set()
        self._broken: OSError | None = None
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._read()
        _sync_folder(self._path.parent)

    # ---- the store's duties -----------------------------------------------------------------

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        """Stage the operations, durably, and vote."""
        for operation in request.operations:
            if trouble := _trouble(operation):
                return PrepareResult(self.store_name, "ABORT", trouble)
        if not request.operations:
            return PrepareResult(self.store_name, "READ_ONLY")
        with self._lock:
            busy = {op["key"] for ops in self._staged.values() for op in ops}
            for operation in request.operations:
                if operation["key"] in busy:
                    reason = f"{operation['key']} is being indexed by another transaction"
                    return PrepareResult(self.store_name, "ABORT", reason)
            operations = [
                {"key": operation["key"], "entry": operation["entry"]}
                for operation in request.operations
            ]
            self._append({"stage": request.transaction_id, "operations": operations})
            self._staged[request.transaction_id] = operations
        return PrepareResult(self.store_name, "COMMIT")

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Make the staged operations visible; again is fine."""
        with self._lock:
            if transaction_id in self._staged:
                self._append({"apply": transaction_id})
                self._apply(transaction_id)
            elif transaction_id not in self._applied:
                reason = f"{transaction_id} was never prepared here"
                return CommitResult(self.store_name, "FAILED", reason)
        return CommitResult(self.store_name, "SUCCESS")

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        """Forget the staged operations; an id that is not known has none."""
        with self._lock:
            if transaction_id in self._staged:
                self._append({"drop": transaction_id})
                del self._staged[transaction_id]
        return AbortResult(self.store_name, "SUCCESS")

    def list_prepared_transactions(self) -> list[str]:
        """Name what is staged, neither applied nor dropped."""
        with self._lock:
            return list(self._staged)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    # ---- reading ----------------------------------------------------------------------------

    def entries(self) -> dict[str, dict[str, Any]]:
        """Give every visible entry by its key."""
        with self._lock:
            return dict(self._entries)

    def search(self, word: str) -> list[str]:
        """Give the keys of the documents that have the word among their most used ones."""
        with self._lock:
            found = [key for key, entry in self._entries.items() if word in entry["words"]]
        return sorted(found)

    # ---- the file ---------------------------------------------------------------------------

    def _append(self, record: dict[str, Any]) -> None:
        if self._broken is not None:
            # After a failed sync nobody knows what is on disk, until the file is read again.
            raise StoreError(f"{self._path} could not be written before: {self._broken}")
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            self._broken = error
            raise

    def _read(self) -> None:
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                self._replay(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(
                    f"{self._path} is damaged at line {number}: {error!r}; "
                    "restore it from a copy, or index the documents again"
                ) from error
        if whole < len(content):
            os.ftruncate(self._file, whole)
            os.fsync(self._file)

    def _replay(self, record: dict[str, Any]) -> None:
        if "stage" in record:
            self._staged[record["stage"]] = record["operations"]
        elif "apply" in record:
            self._apply(record["apply"])
        else:
            self._staged.pop(record["drop"], None)

    def _apply(self, transaction_id: str) -> None:
        for operation in self._staged.pop(transaction_id):
            self._entries[operation["key"]] = operation["entry"]
        self._applied.add(transaction_id)


def _trouble(operation: dict[str, Any]) -> str | None:
    if operation.get("type") != "index":
        return f"type is {operation.get('type')!r}; this store knows 'index'"
    if not isinstance(operation.get("key"), str) or not isinstance(operation.get("entry"), dict):
        return "an index operation needs 'key' (a str) and 'entry' (a dict)"
    return None


def _sync_folder(folder: Path) -> None:
    """Make a new file's name durable, not its content alone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
