"""`unanimity gc`: remove finished coordinations that are old, as services do by themselves.

The same removal as the timer's of a service (`retention.finished_days`), by hand and with its own
age. Invariants: what is open is never touched; a batch is one short transaction, and between two of
them others write; an interrupt loses nothing that was not removed.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from typing import TYPE_CHECKING

from .journal import reading
from .output import UsageError, pairs, print_json, say, size
from .progress import Progress

if TYPE_CHECKING:
    from .._engine import JournalReader

_DAY = 86_400.0
# The default of retention.finished_days, where no configuration says it.
_KEPT_DAYS = 30.0


def gc_verb(arguments: Namespace) -> int:
    """Remove what is older, or say how much it is."""
    age = _age(arguments)
    with reading(arguments.journal) as reader:
        if arguments.dry_run:
            count = reader.count_ended(age)
            removed, given_back = 0, 0
        else:
            count = removed = _remove(reader, age, arguments.batch)
            given_back = reader.shrink() if arguments.shrink else 0
        status = reader.status()
    told = {
        "older_than_seconds": age,
        "dry_run": arguments.dry_run,
        "old": count,
        "removed": removed,
        "bytes": status["bytes"],
        "bytes_free": status["bytes_free"],
        "bytes_given_back": given_back,
    }
    if arguments.json:
        print_json(told)
        return 0
    verb = "would go" if arguments.dry_run else "removed"
    say(pairs({"ended longer ago than": _words(age), verb: count}))
    _print_space(status["bytes"], status["bytes_free"], given_back)
    return 0


def _age(arguments: Namespace) -> float:
    if arguments.older_than is not None:
        age: float = arguments.older_than
        return age
    if arguments.settings is None:
        return _KEPT_DAYS * _DAY
    days: float | None = arguments.settings.retention.finished_days
    if days is None:
        raise UsageError("the configuration keeps everything for ever; give --older-than AGE")
    return days * _DAY


def _remove(reader: JournalReader, age: float, batch: int) -> int:
    """Remove in batches up to the moment that was old enough at the beginning."""
    total = reader.count_ended(age) if sys.stderr.isatty() else 0
    progress = Progress("removing", total)
    began, removed = time.monotonic(), 0
    while True:
        gone = reader.remove_ended(age + time.monotonic() - began, batch)
        removed += gone
        progress.step(gone)
        if gone < batch:
            progress.end()
            return removed


def _print_space(total: int | None, free: int | None, given_back: int) -> None:
    if total is None or free is None:
        return
    say(pairs({"the file": size(total), "free in it": size(free)}))
    if given_back:
        say(f"{size(given_back)} were given back to the disk")
    elif free > total // 4:
        say("what is free is used before the file grows; --shrink gives it back to the disk")


def _words(age: float) -> str:
    return f"{age / _DAY:g} days" if age >= _DAY or age == 0 else f"{age:g} s"
