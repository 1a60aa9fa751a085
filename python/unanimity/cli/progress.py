"""A progress bar on a terminal; silence anywhere else.

Invariant: it writes to stderr only, so that stdout stays what was asked for.
"""

from __future__ import annotations

import shutil
import sys
import time


class Progress:
    """Counts up to a total, and redraws at most twenty times a second."""

    def __init__(self, label: str, total: int) -> None:
        """Draw the empty bar."""
        self._label = label
        self._total = total
        self._done = 0
        self._drawn_at = 0.0
        self._shows = sys.stderr.isatty()
        self._draw()

    def step(self, count: int = 1) -> None:
        """Count one more, or several."""
        self._done += count
        if self._shows and time.monotonic() - self._drawn_at > 0.05:
            self._draw()

    def end(self) -> None:
        """Draw it as it is, and leave the line."""
        self._draw()
        if self._shows:
            print(file=sys.stderr)

    def _draw(self) -> None:
        if not self._shows:
            return
        self._drawn_at = time.monotonic()
        width = max(10, min(40, shutil.get_terminal_size().columns - len(self._label) - 20))
        filled = width * self._done // max(1, self._total)
        bar = "█" * filled + "░" * (width - filled)
        line = f"\r{self._label} {bar} {self._done}/{self._total}"
        print(line, end="", file=sys.stderr, flush=True)
