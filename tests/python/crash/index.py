"""The package's own Python store with a file, armed like the native stores: it dies where told.

Not another implementation: the duties are `SearchIndex`'s. Invariant: a point's name says the same
place in the order of durable writes as a native store's.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

from unanimity import AbortResult, CommitResult, PrepareRequest, PrepareResult
from unanimity.cli.search_index import SearchIndex


class ArmedIndex(SearchIndex):
    """A search index with named points at which the process can be made to die."""

    _armed, _, _count = os.environ.get("UNANIMITY_CRASH_AT", "").partition("#")
    _left = int(_count or 1)
    _counting = threading.Lock()

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        """Prepare; an operation of the type "refuse" votes ABORT."""
        self._point("store_prepare")
        answer = super().prepare_transaction(request)
        if answer.vote == "COMMIT":
            self._point("store_staged")
        return answer

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Commit."""
        self._point("store_commit")
        answer = super().commit_transaction(transaction_id)
        self._point("store_committed")
        return answer

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        """Abort."""
        self._point("store_abort")
        answer = super().abort_transaction(transaction_id)
        self._point("store_aborted")
        return answer

    def _append(self, record: dict[str, Any]) -> None:
        kind = next(iter(record))
        if self._is_reached(f"store_torn_{kind}"):
            # Half a line, as a crash of the machine may leave it: it was never answered.
            os.write(self._file, b'{"' + kind.encode() + b'": "ha')
            os.kill(os.getpid(), signal.SIGKILL)
        super()._append(record)

    def _point(self, stage: str) -> None:
        if self._is_reached(stage):
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_reached(self, stage: str) -> bool:
        if self._armed != f"{stage}:index":
            return False
        # Several threads work in one store.
        with self._counting:
            ArmedIndex._left -= 1
            return self._left == 0


class HastyIndex(ArmedIndex):
    """One that stages on the loop and does not wait for the disk: the journal may be behind."""

    async def prepare_transaction(  # type: ignore[override]
        self, request: PrepareRequest
    ) -> PrepareResult:
        """Prepare, at once."""
        return super().prepare_transaction(request)

    def _append(self, record: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(record).encode() + b"\n")


class ExclusiveIndex(HastyIndex):
    """One whose list is one journal's alone, so that nothing need be on disk before it is asked."""

    prepared_list_is_exclusive = True


class BlindIndex(ArmedIndex):
    """One that cannot tell what it has prepared, so the journal must know before it is asked."""

    list_prepared_transactions = None  # type: ignore[assignment]


class RefusingIndex(ArmedIndex):
    """One whose final word on every commit is contrary."""

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Give the final word."""
        return CommitResult(self.store_name, "FAILED", "the index is full")
