"""The vocabulary of a coordination: enums and dataclasses, plain data.

Not checked here: the engine checks a request and answers a bad one with a result.
Invariant: names, order of fields, defaults and enum values are the public contract.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from ._exceptions import (
    InvalidRequest,
    TransactionAborted,
    TransactionFailed,
    TransactionInDoubt,
)
from ._views.viewed import Viewed

if TYPE_CHECKING:
    from ._views.model import View


class CoordinationType(Enum):
    """How the stores are brought to agree."""

    TWO_PHASE_COMMIT = "two_phase_commit"
    SAGA_ORCHESTRATION = "saga_orchestration"
    SAGA_CHOREOGRAPHY = "saga_choreography"
    EVENT_SOURCING = "event_sourcing"
    EVENTUAL_CONSISTENCY = "eventual_consistency"


class TransactionState(Enum):
    """How a coordination stands."""

    INITIATED = "initiated"
    PREPARING = "preparing"
    PREPARED = "prepared"
    COMMITTING = "committing"
    COMMITTED = "committed"
    ABORTING = "aborting"
    ABORTED = "aborted"
    FAILED = "failed"


class LockType(Enum):
    """How a lock may be shared."""

    EXCLUSIVE = "exclusive"
    SHARED = "shared"
    INTENT_EXCLUSIVE = "intent_exclusive"
    INTENT_SHARED = "intent_shared"


class Outcome(Enum):
    """What a result means, in one word."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"
    HEURISTIC = "heuristic"
    REFUSED = "refused"


@dataclass
class CoordinationRequest:
    """What several stores shall do as one."""

    coordination_id: str
    coordination_type: CoordinationType
    participating_stores: list[str]
    operations: list[dict[str, Any]]
    timeout_seconds: int = 300
    consistency_level: str = "strong"
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class CoordinationResult(Viewed):
    """How a coordination stands, or how it ended."""

    coordination_id: str
    success: bool
    final_state: TransactionState
    error_message: str | None
    execution_duration_ms: int
    participating_stores: list[str]
    operations_completed: int
    operations_failed: int
    code: str | None = None
    """Stable for programs, None for plain success; one that starts "request." never began."""

    @property
    def outcome(self) -> Outcome:
        """What this means, in one word."""
        if self.success:
            return Outcome.COMMITTED
        if self.final_state is TransactionState.FAILED:
            refused = (self.code or "").startswith("request.")
            return Outcome.REFUSED if refused else Outcome.HEURISTIC
        if self.final_state in (TransactionState.ABORTED, TransactionState.ABORTING):
            return Outcome.ABORTED
        # Everything else has no decision that is known: still running, or in doubt.
        return Outcome.UNKNOWN

    def raise_for_state(self) -> CoordinationResult:
        """Return self if the commit stands, raise what fits if not."""
        outcome = self.outcome
        if outcome is Outcome.COMMITTED:
            return self
        if outcome is Outcome.REFUSED:
            raise InvalidRequest(
                self.error_message or "the request was refused",
                code=self.code,
                coordination_id=self.coordination_id,
            )
        error = _ERRORS[outcome]
        message = self.error_message or f"{self.coordination_id} is {self.final_state.value}"
        # What a store raised on the way, with its traceback, if one did in this process.
        raise error(message, result=self) from self.__dict__.get("_cause")

    def __getstate__(self) -> dict[str, Any]:
        # A store's exception need not survive pickling; what it said is in the message.
        return {name: value for name, value in self.__dict__.items() if name != "_cause"}

    def _view(self) -> View:
        from ._views.coordinations import result_view

        return result_view(self)


_ERRORS = {
    Outcome.ABORTED: TransactionAborted,
    Outcome.HEURISTIC: TransactionFailed,
    Outcome.UNKNOWN: TransactionInDoubt,
}


@dataclass
class CoordinationContext:
    """A coordination that is under way."""

    coordination_id: str
    coordination_type: CoordinationType
    participating_stores: list[str]
    operations: list[dict[str, Any]]
    timeout_seconds: int
    started_at: datetime
    state: TransactionState = TransactionState.INITIATED
