"""The service of W1's peer Restate: prints its port, serves, and checks at its end what ran.

Its input ends with the number of sagas whose callers were answered. Exit code 0 says that each of
them ran each step once. hypercorn's settings are those that Restate's pages give for production,
with one process: server and service share the cores.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from typing import Any

from three_steps import NAMES, Counted

_UNBOUNDED = 2**31 - 1


def _application(counted: Counted) -> Any:
    restate: Any = importlib.import_module("restate")
    service = restate.Service("trip")

    async def run(context: Any, number: int) -> list[Any]:
        results = []
        for name in NAMES:

            async def step(name: str = name) -> dict[str, object]:
                return counted.done(name, number)

            results.append(await context.run_typed(name, step))
        return results

    async def ping(context: Any, number: int) -> int:
        return number

    for handler in (run, ping):
        service.handler()(handler)
    return restate.app(services=[service])


async def _serve(counted: Counted) -> int:
    """Serve until the input ends; the number that it held."""
    hypercorn: Any = importlib.import_module("hypercorn.config")
    serve: Any = importlib.import_module("hypercorn.asyncio").serve
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    config = hypercorn.Config()
    config.bind = [f"fd://{listening.fileno()}"]
    config.h2_max_concurrent_streams = _UNBOUNDED
    config.keep_alive_max_requests = _UNBOUNDED
    config.keep_alive_timeout = _UNBOUNDED
    config.graceful_timeout = 1
    config.loglevel = "ERROR"
    print(listening.getsockname()[1], flush=True)
    text = ""

    async def until_input_ends() -> None:
        nonlocal text
        text = await asyncio.to_thread(sys.stdin.read)

    await serve(_application(counted), config, shutdown_trigger=until_input_ends)
    return int(text)


def main() -> None:
    """Serve, then check."""
    counted = Counted()
    counted.sagas = asyncio.run(_serve(counted))
    counted.check(counted.sagas)


if __name__ == "__main__":
    main()
