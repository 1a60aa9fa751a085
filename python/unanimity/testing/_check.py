"""`check_store`: tries every duty of a store and says which are kept, in a table and in words.

Not the duties. Invariants: a duty that a store does not have, or says that it cannot keep, is
reported and not failed; a broken one is never hidden behind another.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from .._exceptions import ConfigError
from . import _kills, _steps, _two_phase
from ._child import load
from ._duties import Bench, Broken, Duty, NotShown
from ._words import StoreWords

_TWO_PHASE = ("prepare_transaction", "commit_transaction", "abort_transaction")
_KEY_VALUE = StoreWords()

KEPT, BROKEN, NOT_THERE, VOLATILE, NOT_RUN = "kept", "broken", "not there", "volatile", "not run"


def _duties() -> list[Duty]:
    kills = [
        duty if duty.needs else Duty(**{**vars(duty), "needs": _TWO_PHASE})
        for duty in _kills.DUTIES
    ]
    phases = [
        Duty(**{**vars(duty), "needs": (*_TWO_PHASE, *duty.needs)}) for duty in _two_phase.DUTIES
    ]
    return [*phases, *_steps.DUTIES, *kills]


def duty_names() -> list[str]:
    """Name every duty that is tried, in order."""
    return [duty.name for duty in _duties()]


@dataclass(frozen=True)
class DutyResult:
    """How one duty came out."""

    duty: str
    promise: str
    state: str
    """"kept", "broken", "not there", "volatile" or "not run"."""
    note: str = ""
    """Why, in plain words."""
    history: tuple[str, ...] = ()
    """Where it is broken: the shortest list of calls and answers that shows it."""


@dataclass(frozen=True)
class StoreReport:
    """What `check_store` found; printing it gives the table."""

    store_name: str
    seed: int
    duties: tuple[DutyResult, ...]

    @property
    def broken(self) -> list[DutyResult]:
        """The duties that are not kept."""
        return [result for result in self.duties if result.state == BROKEN]

    @property
    def is_kept(self) -> bool:
        """Whether no duty is broken."""
        return not self.broken

    def table(self) -> str:
        """One line for each duty."""
        width = max((len(result.duty) for result in self.duties), default=0)
        lines = [f"store '{self.store_name}', seed {self.seed}"]
        for result in self.duties:
            note = f" ({result.note})" if result.note and result.state != BROKEN else ""
            lines.append(f"  {result.duty:<{width}}  {result.state:<9}  {result.promise}{note}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


class DutyBroken(AssertionError):
    """A store breaks a duty; `report` has all of them, `result` the first that is broken."""

    def __init__(self, report: StoreReport) -> None:
        """Tell it in words, with the history that shows it."""
        self.report = report
        self.result = report.broken[0]
        super().__init__(_told(report))


def _told(report: StoreReport) -> str:
    lines = []
    for result in report.broken:
        lines += [
            f"the store '{report.store_name}' breaks the duty {result.duty}: {result.promise}",
            f"  {result.note}",
            "  what was asked, and answered:",
            *(f"    {number}. {call}" for number, call in enumerate(result.history, 1)),
        ]
    return "\n".join([*lines, "", report.table()])


def check_store(
    make_store: Callable[..., Any] | str,
    *arguments: Any,
    words: StoreWords = _KEY_VALUE,
    only: Iterable[str] | None = None,
    seed: int | None = None,
    call_seconds: float = 20.0,
) -> StoreReport:
    """Prove that a store keeps its duties; raises DutyBroken where it does not.

    `make_store(*arguments)` opens the store, each time over the same data, and may be async; or
    give its name, "module:function". Child processes, which are killed, find it by that name, so a
    function inside a function is tried without them. `words` say how the store is spoken to. With
    `only`, just these duties are tried. Each call may take `call_seconds`. The seed is in the
    report; give it again for the same choices.

    Runs an event loop of its own; inside of one, await `acheck_store`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("an event loop runs here; use `await acheck_store(...)`")
    return asyncio.run(
        acheck_store(
            make_store, *arguments, words=words, only=only, seed=seed, call_seconds=call_seconds
        )
    )


async def acheck_store(
    make_store: Callable[..., Any] | str,
    *arguments: Any,
    words: StoreWords = _KEY_VALUE,
    only: Iterable[str] | None = None,
    seed: int | None = None,
    call_seconds: float = 20.0,
) -> StoreReport:
    """Do what `check_store` does, in a loop that runs already."""
    chosen = _chosen(only)
    seed = secrets.randbits(32) if seed is None else seed
    make = load(make_store) if isinstance(make_store, str) else make_store
    name = make_store if isinstance(make_store, str) else importable_name(make_store)
    bench = Bench(make, name, _plain(arguments), words, call_seconds, Random(seed))
    await bench.open()
    try:
        results = await _try_all(bench, chosen)
    finally:
        await bench.close()
    report = StoreReport(bench.asked.name, seed, tuple(results))
    if report.broken:
        raise DutyBroken(report)
    return report


def _chosen(only: Iterable[str] | None) -> list[Duty]:
    duties = _duties()
    if only is None:
        return duties
    names = set(only)
    if unknown := names - {duty.name for duty in duties}:
        raise ConfigError(
            f"there is no duty {sorted(unknown)}; the duties are {', '.join(duty_names())}"
        )
    return [duty for duty in duties if duty.name in names]


async def _try_all(bench: Bench, duties: list[Duty]) -> list[DutyResult]:
    results: list[DutyResult] = []
    # Where the plainest history fails, longer ones would only say so again.
    failed: set[str] = set()
    for duty in duties:
        blocker = _steps.FIRST.name if duty.needs[0] == "execute_operation" else "commit"
        if blocker in failed:
            note = f"the duty {blocker} comes first"
            results.append(DutyResult(duty.name, duty.promise, NOT_RUN, note))
            continue
        result = await _try(bench, duty)
        if result.state == BROKEN:
            failed.add(duty.name)
        results.append(result)
    return results


async def _try(bench: Bench, duty: Duty) -> DutyResult:
    for method in duty.needs:
        if not bench.asked.has(method):
            return DutyResult(duty.name, duty.promise, NOT_THERE, f"there is no {method}()")
    if duty.is_durable and getattr(bench.asked.store, "is_volatile", False) is True:
        note = "it says that nothing survives the process"
        return DutyResult(duty.name, duty.promise, VOLATILE, note)
    if duty.is_killing and bench.maker_name is None:
        note = "a child process cannot find make_store; give a function of a module, or its name"
        return DutyResult(duty.name, duty.promise, NOT_RUN, note)
    bench.begin()
    try:
        await duty.run(bench)
    except NotShown as shown:
        return DutyResult(duty.name, duty.promise, NOT_THERE, str(shown))
    except Broken as broken:
        history = [
            str(call)
            for call in bench.asked.history
            if not broken.about or not call.about or call.about in broken.about
        ]
        return DutyResult(duty.name, duty.promise, BROKEN, str(broken), tuple(history))
    finally:
        await bench.tidy()
    return DutyResult(duty.name, duty.promise, KEPT, bench.note)


def importable_name(function: Callable[..., Any]) -> str | None:
    """The name by which another process finds a function; None where it cannot."""
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if module is None or not path or "<" in path:
        return None
    if module != "__main__":
        return f"{module}:{path}"
    file = getattr(sys.modules["__main__"], "__file__", None)
    return None if file is None else f"{Path(file).resolve()}:{path}"


def _plain(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments as they reach a child: paths as text."""
    plain = tuple(
        os.fspath(argument) if isinstance(argument, os.PathLike) else argument
        for argument in arguments
    )
    try:
        json.dumps(plain)
    except TypeError as error:
        raise ConfigError(
            f"the arguments of make_store must be plain JSON or paths: {error}"
        ) from None
    return plain
