"""The journal alone, without Python: runs `cargo bench --bench journal` and reads its lines.

It measures coordinations, each with two records that are waited for (begin, decision) and one
that is not (end). The records that are waited for are counted, to stand beside the yardstick.
`BENCH_JOURNAL` names a built program to run instead of cargo.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from measure import Row

_WAITED_FOR = 2


def measure(folder: Path) -> list[Row]:
    """One row for each number in flight."""
    program = os.environ.get("BENCH_JOURNAL")
    command = [program] if program else ["cargo", "bench", "--quiet", "--bench", "journal", "--"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]}: {done.stderr.strip().splitlines()[-1:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [
        {
            "callers": line["in_flight"],
            "rate": line["coordinations_per_second"] * _WAITED_FOR,
            "settled_rate": line["coordinations_per_second_projected"] * _WAITED_FOR,
        }
        for line in lines
        if line["journal"] == "file"
    ]


if __name__ == "__main__":
    # The driver's other arguments say how long; this program has its own.
    for row in measure(Path(sys.argv[sys.argv.index("--folder") + 1])):
        print(json.dumps(row))
