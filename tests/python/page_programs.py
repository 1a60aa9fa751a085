"""The programs of a page, run as a reader would run them: each in a process of its own.

Not tests, and no judgement: what a page says of a program is compared by the page's own test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_PATIENCE = 120.0
_SHOWN = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.S)


def programs_of(text: str) -> list[tuple[str, str]]:
    """Each program whose output the next block shows, with that output."""
    return _SHOWN.findall(text)


def run_program(program: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in `folder`; a warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        timeout=_PATIENCE,
    )
