"""Start: how long an import takes in a fresh interpreter, and what an installation weighs.

An interpreter that imports nothing is subtracted. The engine is loaded by the first use of the
service, so both are measured; asyncio's own import, which a program that uses the service makes in
any case, is told apart. The wheel is the newest of `target/wheels` (`make wheel`).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path

_TIMES = 20
_WITH = "import of the service, with asyncio and the engine"
_ASYNCIO = "import asyncio (for comparison)"
_BESIDE = "import of the service and the engine, beside asyncio's"
_PROGRAMS = {
    "import unanimity": "import unanimity",
    _WITH: "from unanimity import CoordinationService",
    _ASYNCIO: "import asyncio",
}


def _median_ms(program: str) -> float:
    times = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def _wheel_rows(wheels: Path) -> list[dict[str, object]]:
    found = sorted(wheels.glob("unanimity-*.whl"), key=lambda path: path.stat().st_mtime)
    if not found:
        reason = "no wheel is built; run `make wheel`"
        return [{"subject": "wheel", "failed": reason}]
    with zipfile.ZipFile(found[-1]) as wheel:
        name = next(each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
        lines = wheel.read(name).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist:") and ";" not in line]
    return [
        {"subject": "wheel", "mib": found[-1].stat().st_size / 2**20},
        {"subject": "required dependencies", "count": len(required)},
    ]


def measure() -> list[dict[str, object]]:
    """One row for each import, and the wheel's."""
    subprocess.run([sys.executable, "-c", "; ".join(_PROGRAMS.values())], check=True)
    bare = _median_ms("pass")
    spent = {subject: _median_ms(program) - bare for subject, program in _PROGRAMS.items()}
    spent[_BESIDE] = spent[_WITH] - spent[_ASYNCIO]
    rows: list[dict[str, object]] = [
        {"subject": subject, "ms": milliseconds} for subject, milliseconds in spent.items()
    ]
    return rows + _wheel_rows(Path(__file__).parents[2] / "target" / "wheels")


if __name__ == "__main__":
    for row in measure():
        print(json.dumps(row))
