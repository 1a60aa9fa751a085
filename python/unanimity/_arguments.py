"""The checks of what a service is made with, and what the engine is given for each store.

Not the checks of requests: those are the engine's, and end in a result. Invariant: a constructor's
argument that cannot be used is a ConfigError that names it and says what to give.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ._consensus import IConsensusService
from ._exceptions import ConfigError
from ._locks import IDistributedLockManager
from ._stores import IStorageStore, PythonStore

if TYPE_CHECKING:
    from . import _engine
    from ._events import IEventBus

_STORE_METHODS = (
    "prepare_transaction",
    "commit_transaction",
    "abort_transaction",
    "execute_operation",
    "compensate_operation",
)
_LOCK_METHODS = ("acquire_lock", "release_lock", "check_lock_status")
_CONSENSUS_METHODS = ("propose_coordination_decision", "get_consensus_status")


def checked_stores(stores: Mapping[str, Any]) -> dict[str, Any]:
    """Take the stores by name."""
    if not isinstance(stores, Mapping):
        raise ConfigError(f"stores is a {type(stores).__name__}; give a dict of stores by name")
    for name, store in stores.items():
        if not isinstance(name, str) or not 1 <= len(name) <= 128 or "\0" in name:
            raise ConfigError(f"{name!r} cannot name a store; use a str of 1 to 128 characters")
        if isinstance(store, type):
            raise ConfigError(
                f"stores['{name}'] is the class {store.__name__}; give an instance of it"
            )
    return dict(stores)


def _is_unchanged(given: object, ours: type, methods: Iterable[str]) -> bool:
    """Whether the engine may go past the Python face: a subclass's own methods must be called."""
    own = type(given)
    return all(getattr(own, name) is getattr(ours, name) for name in methods)


def for_engine(name: str, store: object) -> object:
    """The native store behind one of `unanimity.stores`, or an adapter for any other object."""
    if isinstance(store, IStorageStore) and hasattr(store, "_native"):
        from .stores import NativeStore

        if _is_unchanged(store, NativeStore, _STORE_METHODS):
            return store._native
    return PythonStore.adapt(name, store)


def _check_methods(given: object, what: str, methods: Iterable[str]) -> None:
    for name in methods:
        if not callable(getattr(given, name, None)):
            raise ConfigError(f"the {what} {given!r} has no method {name}()")


def lock_manager_for_engine(manager: object) -> object | None:
    """The native side of one of our lock managers, or a user's own as it is."""
    if manager is None:
        return None
    _check_methods(manager, "lock manager", _LOCK_METHODS)
    if isinstance(manager, IDistributedLockManager) and hasattr(manager, "for_service"):
        from ._native_locks import NativeLockManager

        if _is_unchanged(manager, NativeLockManager, _LOCK_METHODS):
            return manager.for_service()  # type: ignore[no-any-return]
    return manager


def consensus_for_engine(service: object) -> object | None:
    """The native side of our node, or a user's own service as it is."""
    if service is None:
        return None
    _check_methods(service, "consensus service", _CONSENSUS_METHODS)
    if isinstance(service, IConsensusService) and hasattr(service, "for_service"):
        from ._raft import RaftConsensusService

        if _is_unchanged(service, RaftConsensusService, _CONSENSUS_METHODS):
            return service.for_service()  # type: ignore[no-any-return]
    return service


async def start_node_of(manager: object) -> None:
    """Start the node that a lock manager stands on, if it is one that does not run yet."""
    if isinstance(manager, IDistributedLockManager) and hasattr(manager, "raft"):
        await manager.raft.start()


async def start_consensus(service: object) -> None:
    """Start our own node, if it is one that does not run yet."""
    if isinstance(service, IConsensusService) and hasattr(service, "for_service"):
        await service.start()  # type: ignore[attr-defined]


def event_bus_for_engine(bus: IEventBus | None) -> _engine.EventBus | None:
    """Give the native side of one of our buses, which may carry choreographed sagas."""
    if bus is None:
        return None
    from ._event_buses import NativeEventBus

    return bus._native() if isinstance(bus, NativeEventBus) else None


def checked_journal(journal: object) -> str:
    """Take a path, "memory:", or the URL of a PostgreSQL database."""
    path = os.fspath(journal) if isinstance(journal, os.PathLike) else journal
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(
            f'journal is {journal!r}; give a path, "memory:", '
            "or postgresql://user:password@host:5432/database"
        )
    if is_postgres_journal(path):
        return path
    if address := re.match(r"\w+://", path):
        raise ConfigError(
            f"journal is a {address[0]} address, which cannot be used; "
            "give a path, or postgresql://user:password@host:5432/database"
        )
    # SQLite's own word for it makes no file of that name either.
    if path in ("memory:", ":memory:"):
        return "memory:"
    # An absolute path, so that a later change of the working directory changes nothing.
    return os.path.abspath(path)  # noqa: PTH100


def is_postgres_journal(journal: str) -> bool:
    """Whether a journal stands in a database, and not in a file."""
    return journal.startswith(("postgresql://", "postgres://"))


def shown_journal(journal: str) -> str:
    """Where a journal is, for people: without the password."""
    if not is_postgres_journal(journal):
        return journal
    without = re.sub(r"://([^:/@]*):.*@", r"://\1:***@", journal)
    return re.sub(r"(password=)[^&]*", r"\1***", without)


def checked_text(value: object, what: str) -> str:
    """Take a str, or say what else it is."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is a {type(value).__name__}; give a str")
    return value
