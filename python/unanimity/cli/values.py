"""How an argument of the command line is read, where it is no plain text.

Invariant: what cannot be is refused with what to give instead, as argparse tells it: exit code 2.
"""

from __future__ import annotations

import argparse

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_SECONDS_MAX = 365_000 * 86_400.0


def count(text: str) -> int:
    """Read a whole number from 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number < 2**63:
        raise argparse.ArgumentTypeError("give a whole number from 1")
    return number


def seconds(text: str) -> float:
    """Read a length of time, in seconds."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= _SECONDS_MAX:
        raise argparse.ArgumentTypeError("give a number of seconds")
    return number


def interval(text: str) -> float:
    """Read how often, in seconds: not so often that it is work."""
    number = seconds(text)
    if not 0.05 <= number <= 86_400:
        raise argparse.ArgumentTypeError("give a number of seconds from 0.05 to 86400")
    return number


def age(text: str) -> float:
    """Read 30d, 12h, 45m, 90s; days where there is no letter."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "d")
    try:
        seconds = float(number) * _UNITS[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _SECONDS_MAX:
        raise argparse.ArgumentTypeError("give an age such as 30d, 12h, 45m or 90s")
    return seconds
