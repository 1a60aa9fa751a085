"""`service.watch()` in a real kernel: one output that changes until the cell is interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

_SECONDS = 60
_BEGIN = """
import asyncio
from unanimity import CoordinationService
from unanimity.stores import MemoryStore
service = CoordinationService({"memory": MemoryStore("memory")}, journal="memory:")
await service.start()

async def work():
    while True:
        async with service.transaction() as tx:
            tx.add("memory", "put", key="k", value=1)

working = asyncio.ensure_future(work())
"""
_END = """
working.cancel()
async with service.transaction(coordination_id="after") as tx:
    tx.add("memory", "put", key="k", value=2)
shown = await service.watch("after")
await service.close()
print(shown.state.value)
"""


@pytest.fixture
def kernel() -> Iterator[tuple[Any, Any]]:
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run(client: Any, code: str) -> list[Any]:
    """Everything that the kernel tells of a cell, up to its end."""
    told: list[Any] = []
    reply = client.execute_interactive(code, timeout=_SECONDS, output_hook=told.append)
    assert reply["content"]["status"] == "ok", reply["content"]
    return told


def test_an_output_changes_in_its_place_until_the_cell_is_interrupted(kernel: Any) -> None:
    manager, client = kernel
    run(client, _BEGIN)
    asked = client.execute("await service.watch(interval_seconds=0.02)")
    kinds: list[str] = []
    places: set[str] = set()
    while True:
        message = client.get_iopub_msg(timeout=_SECONDS)
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        kinds.append(kind)
        if kind in ("display_data", "update_display_data"):
            assert "<script" not in content["data"]["text/html"]
            places.add(content["transient"]["display_id"])
            if kinds.count("update_display_data") == 3:
                manager.interrupt_kernel()
        if kind == "error":
            assert content["ename"] in ("CancelledError", "KeyboardInterrupt")
        if kind == "status" and content["execution_state"] == "idle":
            break
    assert (len(places), kinds.count("display_data"), kinds.count("error")) == (1, 1, 1)
    told = run(client, _END)
    assert "committed" in "".join(m["content"].get("text", "") for m in told)
