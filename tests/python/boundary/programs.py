"""Short programs in processes of their own, for what cannot be seen from inside of one.

Not tests. A program is Python source with the test kit on its path; it runs in a folder of its
own, where its journal is.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

KIT = Path(__file__).resolve().parents[1]
DEVELOPMENT = ("-X", "dev", "-W", "error")
PATIENCE = 120.0

PRELUDE = """
import asyncio, contextlib, gc, logging, os, signal, sys, threading, time
from boundary.stores import Gated, Plain, Stubborn
from ledger import Ledger, request
from unanimity import CoordinationService, Outcome, ServiceElsewhere, UnanimityError
from unanimity.stores import FileStore, MemoryStore, SqliteStore

def native():
    return {"memory": MemoryStore(), "files": FileStore("files"), "rows": SqliteStore("rows.db")}

def put(coordination_id, *stores):
    found = request(coordination_id, *stores)
    for operation in found.operations:
        operation["key"] = coordination_id
        operation["value"] = "1"
    return found

def quiet_debug():
    # A busy machine makes slow callbacks, which debug mode would tell of.
    asyncio.get_running_loop().slow_callback_duration = 3600.0
"""


@contextlib.contextmanager
def start(
    source: str, folder: Path, flags: Sequence[str] = (), **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Start a program in `folder`, and end it with the block; what it prints is piped."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {**os.environ, "PYTHONPATH": str(KIT), **environment}
    process = subprocess.Popen(
        [sys.executable, *flags, "-c", PRELUDE + textwrap.dedent(source)],
        cwd=folder,
        env=known,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            # A test that has failed does not wait for a program that may never end.
            process.kill()


def run(
    source: str, folder: Path, flags: Sequence[str] = (), **environment: str
) -> tuple[int, str, str]:
    """Run a program to its end: return code, output, complaints."""
    with start(source, folder, flags, **environment) as process:
        try:
            output, complaints = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            output, complaints = process.communicate()
            return (-1000, output, f"it did not end within {PATIENCE:g} s\n{complaints}")
    return (process.returncode, output, complaints)


def line_of(process: subprocess.Popen[str], wanted: str) -> str:
    """Read what the program prints up to the line that starts with `wanted`."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(wanted):
            return line.strip()
    process.wait(PATIENCE)
    complaints = process.stderr.read() if process.stderr else ""
    raise AssertionError(f"no line {wanted!r}; return code {process.returncode}\n{complaints}")
