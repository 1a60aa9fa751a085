"""W1's peer Restate: a handler of three `run` steps, called through the server's ingress.

The server is one program, the service another one, which hypercorn serves as Restate's pages say,
and the callers are here. CPU is that of the callers and of the service; the server's stands beside
it. Runs in the peers' environment, without the package.
"""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from measure import Case, Row, main, run_callers
from three_steps import NAMES


@contextmanager
def _service() -> Iterator[subprocess.Popen[str]]:
    """The service's own process; it ends with its input."""
    command = [sys.executable, "-m", "cases.w1_restate_service"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


async def through_ingress(case: Case) -> Row:
    """A call of the handler for each operation of a caller, over connections that stay open."""
    aiohttp: Any = importlib.import_module("aiohttp")
    ingress, admin = case.databases
    ended = 0

    async def saga(number: int) -> None:
        nonlocal ended
        async with session.post(f"{ingress}/trip/run", json=number) as answer:
            results = await answer.json()
        if [each["step"] for each in results] != list(NAMES):
            raise AssertionError(f"invocation {number} gave {results}")
        ended += 1

    connector = aiohttp.TCPConnector(limit=0)
    with _service() as service:
        assert service.stdin is not None and service.stdout is not None
        port = int(service.stdout.readline())
        async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:
            await _register(session, admin, f"http://127.0.0.1:{port}")
            await _wait_until_routed(session, ingress)
            row = await run_callers(case, saga, helper=service.pid)
        service.communicate(str(ended))
    if service.returncode != 0:
        raise AssertionError("the service found that a step did not run once in each saga")
    return row


async def _register(session: Any, admin: str, uri: str) -> None:
    # Another run's service had the same name at another place, and is gone.
    deployment = {"uri": uri, "force": True}
    async with session.post(f"{admin}/deployments", json=deployment) as answer:
        await answer.read()


async def _wait_until_routed(session: Any, ingress: str) -> None:
    """The ingress learns of a registration a little later than the registry."""
    for _ in range(1000):
        async with session.post(f"{ingress}/trip/ping", raise_for_status=False, json=0) as answer:
            if answer.status == 200:
                return
        await asyncio.sleep(0.01)
    raise RuntimeError("the ingress does not know the service, 10 s after its registration")


if __name__ == "__main__":
    main({"Restate": through_ingress})
