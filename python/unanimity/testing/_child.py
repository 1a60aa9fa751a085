"""The process that the kit kills: it makes a store by name and asks what it is told to ask.

`python -m unanimity.testing._child`, one JSON line on its input, one on its output before and
behind every call. When all is done it waits to be killed. Not started by hand.
Invariant: a line says what has happened already; nothing is written ahead.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._stores import OperationRequest
from ._asked import Asked


def load(name: str) -> Callable[..., Any]:
    """Find `module:function`, or `path/file.py:function`."""
    place, _, function = name.rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None:
            raise ImportError(f"{place} cannot be loaded as a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(spec.name, module)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    found: Any = module
    for part in function.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} is no function")
    made: Callable[..., Any] = found
    return made


async def work(order: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Carry the script out."""
    store = load(order["make"])(*order["arguments"])
    if inspect.isawaitable(store):
        store = await store
    asked = Asked(store, order["seconds"])
    for number, (what, arguments) in enumerate(order["script"]):
        tell({"begun": number})
        if what in ("execute", "compensate"):
            done = await getattr(asked, what)(OperationRequest(**arguments))
            answer: Any = {"status": done.status, "result": done.result}
        elif what == "list":
            answer = await asked.listed(arguments)
        else:
            answer = await getattr(asked, what)(arguments[0], *arguments[1:])
        tell({"ended": number, "answer": answer, "history": str(asked.history[-1])})
    tell({"all": True})
    # The input ends when the parent is gone, so that nothing is left behind.
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


def main() -> None:
    """Read the order; what the store prints goes elsewhere than the answers."""
    out = os.dup(1)
    os.dup2(2, 1)

    def tell(line: dict[str, Any]) -> None:
        os.write(out, json.dumps(line).encode() + b"\n")

    order = json.loads(sys.stdin.readline())
    for place in reversed(order["path"]):
        if place not in sys.path:
            sys.path.insert(0, place)
    asyncio.run(work(order, tell))


if __name__ == "__main__":
    main()
