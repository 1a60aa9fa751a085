"""The lock managers that tests run against, by name, each on a real server of its own kind.

Invariant: a kind whose server is not installed is skipped by name, never left out silently.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from unanimity import LocalLockManager, LockInfo

KINDS = ["local"]

Manager = LocalLockManager
Make = Callable[..., Manager]

_names = (f"resource-{number}" for number in itertools.count())


def fresh() -> str:
    """A resource that no other test has locked."""
    return next(_names)


def make_manager(kind: str, request: pytest.FixtureRequest, **options: Any) -> Manager:
    """A manager of that kind; two of one kind see each other, unless they are local."""
    assert kind == "local"
    return LocalLockManager(**options)


async def until(
    look: Callable[[], Awaitable[list[LockInfo]]], states: Iterable[str], seconds: float = 20
) -> list[LockInfo]:
    """Look until the states are these, in this order."""
    wanted = list(states)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        infos = await look()
        if [info.state for info in infos] == wanted:
            return infos
        assert loop.time() < end, f"{infos} instead of {wanted}"
        await asyncio.sleep(0.002)
