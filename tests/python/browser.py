"""A real browser for tests, without a window: what a page says once it is loaded.

Not a driver: one page is loaded and what stands in it is given back. Invariant: nothing is left of
a browser, nor of its profile.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

_SECONDS_MAX = 120


def find_chromium() -> str | None:
    """Where the browser's program is."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def loaded(page: Path, profile: Path, *options: str) -> str:
    """The document as it stands after the page was loaded, as HTML again.

    `profile` is an empty folder for what the browser writes.
    """
    program = find_chromium()
    assert program is not None, "chromium is not installed"
    command = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-extensions",
        "--no-first-run",
        f"--user-data-dir={profile}",
        *options,
        "--dump-dom",
        page.as_uri(),
    ]
    # A session of its own, so that a browser that hangs ends with all of its processes.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as browser:
        try:
            shown, said = browser.communicate(timeout=_SECONDS_MAX)
        except BaseException:
            os.killpg(browser.pid, signal.SIGKILL)
            raise
    assert browser.returncode == 0, said[-2000:]
    return shown
