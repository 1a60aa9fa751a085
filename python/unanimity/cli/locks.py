"""The verbs that look at locks: locks, deadlocks.

They ask a lock manager's server, or for `locks` the journal, which knows what open coordinations
hold. Nothing is locked and nothing is changed. Invariant: one look; what is printed, drawn and
told by the exit code comes from the same answers.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from .._config_parts import is_shared, lock_manager_of
from .._lock_views import LockTable, WaitGraph
from .._locks import LockInfo
from .journal import reading
from .output import UsageError, print_json, say

if TYPE_CHECKING:
    from .._native_locks import NativeLockManager


def locks_verb(arguments: Namespace) -> int:
    """List who holds a resource and who waits for it; 1 when nobody does."""
    if _has_server(arguments):
        infos, _ = asyncio.run(_ask(arguments))
    else:
        with reading(arguments.journal) as reader:
            infos = reader.locks()
    wanted = arguments.resource
    chosen = [info for info in infos if wanted is None or info.resource_id == wanted]
    if arguments.json:
        print_json(chosen)
    elif chosen:
        say(str(LockTable(chosen)))
    else:
        say("nobody holds a lock" if wanted is None else f"nobody holds {wanted}")
    return 0 if chosen or wanted is None else 1


def deadlocks_verb(arguments: Namespace) -> int:
    """Show who waits for whom; 1 when some wait for each other."""
    if not _has_server(arguments):
        # A coordination enters the journal when it has its locks, so no wait is in there.
        raise UsageError(
            "a journal does not keep who waits; name its lock manager with --postgres DSN or "
            "--zookeeper HOSTS"
        )
    infos, waits = asyncio.run(_ask(arguments))
    graph = WaitGraph(waits, LockTable(infos).wants())
    if arguments.svg is not None:
        Path(arguments.svg).write_text(graph.to_svg(), encoding="utf-8")
    if arguments.json:
        print_json(graph.to_dict())
    elif arguments.dot:
        print(graph.to_dot(), end="")
    else:
        print(graph)
    return 1 if graph.circles() else 0


def _has_server(arguments: Namespace) -> bool:
    """Whether there is a lock manager that others use too, by an argument or the configuration."""
    if arguments.postgres is not None or arguments.zookeeper is not None:
        return True
    return arguments.settings is not None and is_shared(arguments.settings)


async def _ask(arguments: Namespace) -> tuple[list[LockInfo], dict[str, list[str]]]:
    """Every holder and waiter, and who waits for whom."""
    from .._lock_managers import PostgresLockManager, ZooKeeperLockManager

    manager: NativeLockManager
    if arguments.postgres is not None:
        manager = PostgresLockManager(arguments.postgres)
    elif arguments.zookeeper is not None:
        manager = ZooKeeperLockManager(arguments.zookeeper, arguments.root)
    else:
        manager = lock_manager_of(arguments.settings)  # type: ignore[assignment]
    async with manager:
        return await manager.list_locks(), await manager.wait_for_graph()
