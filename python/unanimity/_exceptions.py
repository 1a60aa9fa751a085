"""The exceptions, as people catch them. Not the engine's own errors: those are mapped to these.

    UnanimityError
    ├── ConfigError (ValueError)          the service was set up wrongly
    ├── JournalError                      the journal cannot be opened, read or written
    ├── InvalidRequest (ValueError)       refused before anything happened
    ├── ServiceClosed                     the service was closed
    ├── ServiceElsewhere (RuntimeError)   used from another event loop or process than its own
    ├── StoreError                        a store used by itself could not do what was asked
    ├── Permanent                         raised by a store's own operation: do not try it again
    ├── LockError ── LockTimeout, DeadlockDetected, LockLost
    ├── ConsensusError ── NotLeader, NoQuorum
    ├── EventBusError                     an event bus cannot be used, or refuses what was asked
    ├── TransactionError (.result) ── TransactionAborted, TransactionFailed, TransactionInDoubt
    └── InternalError                     a mistake of this package; please report it

Invariant: each carries code, coordination_id, store, retryable and hint, and survives pickling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ._config import ConfigProblem
    from ._types import CoordinationResult


class UnanimityError(Exception):
    """The root of everything this package raises on purpose."""

    default_code: ClassVar[str] = "error"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        coordination_id: str | None = None,
        store: str | None = None,
        retryable: bool | None = None,
        hint: str | None = None,
    ) -> None:
        """Keep the message for people and the other facts for programs."""
        super().__init__(message)
        self.code: str = code or self.default_code
        self.coordination_id = coordination_id
        self.store = store
        self.retryable: bool = self.default_retryable if retryable is None else retryable
        self.hint = hint

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else ""
        return f"{message}; {self.hint}" if self.hint else message


class ConfigError(UnanimityError, ValueError):
    """A setting or an argument of the service's constructor cannot be used."""

    default_code = "config.invalid"
    problems: tuple[ConfigProblem, ...] = ()
    """Everything that is wrong with a configuration, where one was read."""


class JournalError(UnanimityError):
    """The journal cannot be opened, read or written; nothing was acknowledged on its account."""

    default_code = "journal.unavailable"


class InvalidRequest(UnanimityError, ValueError):
    """A request that was refused: nothing has happened."""

    default_code = "request.invalid"


class ServiceClosed(UnanimityError):
    """The service was closed; make another one."""

    default_code = "service.closed"


class ServiceElsewhere(UnanimityError, RuntimeError):
    """The service belongs to another event loop, or to the process before a fork."""

    default_code = "service.elsewhere"


class StoreError(UnanimityError):
    """A store that was used by itself could not do what was asked."""

    default_code = "store.failed"


class Permanent(UnanimityError):
    """Raise this in an operation that had no effect and that it is no use to try again.

    Anything else that an operation raises leaves open whether it had an effect: it is tried again,
    and undone when the saga turns round. This one is neither.
    """

    default_code = "operation.permanent"


class LockError(UnanimityError):
    """Trouble with a lock."""

    default_code = "lock.failed"


class LockTimeout(LockError):
    """The lock was not granted in time."""

    default_code = "lock.timeout"
    default_retryable = True


class DeadlockDetected(LockError):
    """Waiting would never have ended, and this waiter was chosen to give way."""

    default_code = "lock.deadlock"
    default_retryable = True
    deadlock_cycle: list[str] | None = None
    """Who waited for each other: each for the next, the last for the first."""


class LockLost(LockError):
    """A lock that was held is held no longer."""

    default_code = "lock.lost"
    lock_id: str | None = None


class ConsensusError(UnanimityError):
    """Trouble with reaching agreement between nodes."""

    default_code = "consensus.failed"


class NotLeader(ConsensusError):
    """This node does not lead, and the leader is not known."""

    default_code = "consensus.not_leader"
    default_retryable = True


class NoQuorum(ConsensusError):
    """No majority of the nodes answers."""

    default_code = "consensus.no_quorum"
    default_retryable = True


class EventBusError(UnanimityError):
    """An event bus cannot be used now, refuses what was asked, or is closed; `code` says which."""

    default_code = "events.unavailable"


class TransactionError(UnanimityError):
    """A coordination did not end in a commit; `result` says how it stands."""

    default_code = "transaction.failed"

    def __init__(
        self,
        message: str = "",
        *,
        result: CoordinationResult | None = None,
        code: str | None = None,
        coordination_id: str | None = None,
        store: str | None = None,
        retryable: bool | None = None,
        hint: str | None = None,
    ) -> None:
        """Take what is not given from the result."""
        super().__init__(
            message or (result.error_message if result is not None else None) or "",
            code=code or (result.code if result is not None else None),
            coordination_id=coordination_id or (result.coordination_id if result else None),
            store=store,
            retryable=retryable,
            hint=hint,
        )
        self.result = result


class TransactionAborted(TransactionError):
    """No store was changed. Asking again, under another id, is safe."""

    default_code = "transaction.aborted"
    default_retryable = True


class TransactionFailed(TransactionError):
    """A store gave its own contrary final word; an operator must resolve it."""

    default_code = "transaction.heuristic"


class TransactionInDoubt(TransactionError):
    """Whether the decision was made is not known yet; `wait_for` the id, do not repeat it."""

    default_code = "transaction.in_doubt"


class InternalError(UnanimityError):
    """A mistake inside this package. What was durable stays so; please report it."""

    default_code = "internal"
