"""Minted coordination ids. Not a check of ids that callers bring: the engine checks those.

Invariant: within a process each is greater than the one before, so that they lie side by side in
the journal's index; across processes 72 random bits keep them apart.
"""

from __future__ import annotations

import os
import time

_last = 0


def mint() -> str:
    """Make an id: microseconds since 1970, then randomness, as 32 hexadecimal digits."""
    global _last
    # Two threads may race here and get the same microsecond; the random part keeps them apart.
    _last = max(_last + 1, time.time_ns() // 1000)
    return f"{_last:014x}{os.urandom(9).hex()}"
