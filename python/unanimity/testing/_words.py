"""The words of a store: how the kit says "put this value", "undo it", and reads what is committed.

Not the duties, which are the same for every store. Invariant: keys and values of the kit are short
text, so that every store can hold them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Operation = dict[str, Any]


def put_value(key: str, value: str) -> Operation:
    """Give the operation that the package's own key-value stores understand."""
    return {"type": "put", "key": key, "value": value}


def delete_value(key: str) -> Operation:
    """Give the operation that takes it away again."""
    return {"type": "delete", "key": key}


async def read_value(store: Any, key: str) -> str | None:
    """Read by the store's own `get(key)`, async or plain; bytes are taken for text."""
    value = store.get(key)
    if inspect.isawaitable(value):
        value = await value
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)


@dataclass(frozen=True)
class StoreWords:
    """How a store is spoken to; what is not given is the key-value words of our own stores.

    `put(key, value)` and `undo(key)` give operations, as dicts that JSON can hold. `read(store,
    key)` gives the committed value as text, None where there is none; it may be async. `bad(key)`
    gives an operation that the store must refuse. `undo` is the compensation of a put whose key
    had no value before; None where the store knows by itself how to undo a put.
    """

    put: Callable[[str, str], Operation] = put_value
    undo: Callable[[str], Operation] | None = delete_value
    read: Callable[[Any, str], Any] = read_value
    bad: Callable[[str], Operation] = lambda key: {"type": "no-such-operation", "key": key}
