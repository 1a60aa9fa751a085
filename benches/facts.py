"""The facts of the machine and of the versions that are compared. No names, no paths.

What is not installed is said to be missing, not left out.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sqlite3
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "python"))

from restate_server import find_restate

from postgres_cluster import find_postgres
from zookeeper_server import find_zookeeper

_TARGET = Path(__file__).resolve().parent.parent / "target"


def machine_facts(journals: Path) -> dict[str, Any]:
    """What the page says about where it was measured; `journals` is the folder of their files."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release().split("-")[0],
        "load before": round(os.getloadavg()[0], 2),
        # In memory nothing waits for a disk: then the figures are not those of durable stores.
        "journals on": _filesystem(journals),
        "databases on": _filesystem(Path(tempfile.gettempdir())),
        "python": platform.python_version(),
        "sqlite3 (peers)": sqlite3.sqlite_version,
        "postgresql": _postgres_version(),
        "zookeeper": _zookeeper_version(),
        **{name: _version(name) for name in ("asyncpg", "sqlalchemy", "kazoo")},
        **{name: _peer_version(name) for name in ("dbos", "absurd-sdk", "restate-sdk")},
        "restate": _restate_version(),
        "rustc": _output("rustc", "--version"),
    }


def _filesystem(folder: Path) -> str:
    """The kind of the file system that holds a folder: ext4, tmpfs, ..."""
    kinds = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        kinds[Path(mount)] = kind
    where = folder.resolve()
    return next((kinds[each] for each in (where, *where.parents) if each in kinds), "unknown")


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _peer_version(name: str) -> str:
    """The version of what is installed in the peers' own environment."""
    folders = _TARGET.glob("bench-peers-venv/lib/python*/site-packages")
    found = importlib.metadata.distributions(name=name, path=[str(folder) for folder in folders])
    return next((each.version for each in found), "missing")


def _restate_version() -> str:
    program = find_restate()
    return "missing" if program is None else _output(str(program), "--version")


def _postgres_version() -> str:
    program = find_postgres()
    return "missing" if program is None else _output(str(program), "--version")


def _zookeeper_version() -> str:
    jar = find_zookeeper()
    return "missing" if jar is None else jar.resolve().stem.removeprefix("zookeeper-")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "missing"
    return done.stdout.strip()
