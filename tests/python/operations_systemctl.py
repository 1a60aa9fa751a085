"""What `systemctl start|stop unanimity` does on a machine of `test_operations_page`. Not a test.

It runs the command of the page's unit, and returns when the node listens, or has ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 60.0


def start(machine: Path) -> int:
    """Start the node in a session of its own, and wait for its line."""
    out = machine / "out"
    with out.open("wb") as told, (machine / "log").open("ab") as log:
        node = subprocess.Popen(
            [sys.executable, "-m", "unanimity", "node", str(machine / "etc" / "node.yaml")],
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=log,
            start_new_session=True,
        )
    (machine / "pid").write_text(str(node.pid))
    deadline = time.monotonic() + PATIENCE
    while b"listens at" not in out.read_bytes():
        if node.poll() is not None or time.monotonic() > deadline:
            sys.stderr.write((machine / "log").read_text()[-4000:])
            return 1
        time.sleep(0.02)
    return 0


def stop(machine: Path) -> int:
    """End the node as systemd does, and wait until its process is gone."""
    file = machine / "pid"
    pid = int(file.read_text())
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while _runs(pid):
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.02)
    file.unlink()
    return 0


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


if __name__ == "__main__":
    raise SystemExit({"start": start, "stop": stop}[sys.argv[1]](Path(sys.argv[2])))
