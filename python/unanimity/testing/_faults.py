"""Faults by name: what a store is asked is delayed, lost, doubled, refused, held, or the last thing
that this process does.

    with faults(service) as inject:
        inject.drop_answer("commit:payments")

Stores are wrapped in Python; the engine is the one that is shipped. A point is `<question>:<store>`
with the questions prepare, commit, abort, list, execute, compensate and apply; of the steps also
`<question>:<store>:<type of operation>`. Invariants: a fault strikes the n-th time its point is
passed, and so many times; behind the block every store is asked as before.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .._bridge import in_thread
from .._exceptions import ConfigError, StoreError
from .._service import CoordinationService
from .._stores import (
    AbortResult,
    CommitResult,
    OperationResult,
    PrepareResult,
    is_async,
    own_method,
)

QUESTIONS = {
    "prepare_transaction": "prepare",
    "commit_transaction": "commit",
    "abort_transaction": "abort",
    "list_prepared_transactions": "list",
    "execute_operation": "execute",
    "compensate_operation": "compensate",
    "apply_event": "apply",
}
_ANSWERS: dict[str, Callable[[str, str], Any]] = {
    "prepare": lambda store, words: PrepareResult(store, "ABORT", words),
    "commit": lambda store, words: CommitResult(store, "FAILED", words),
    "abort": lambda store, words: AbortResult(store, "FAILED", words),
    "execute": lambda store, words: OperationResult(store, "FAILED", None, words, retryable=False),
    "compensate": lambda store, words: OperationResult(
        store, "FAILED", None, words, retryable=False
    ),
}

_may_kill = False


def allow_killing() -> None:
    """Called in processes that were made to be killed."""
    global _may_kill
    _may_kill = True


class FaultInjected(StoreError):
    """A question or an answer that a test lost on purpose: what was done is not known."""

    default_code = "store.fault_injected"
    default_retryable = True


class Held:
    """A point at which whoever passes it waits; `await held.reached()`, then `held.release()`."""

    def __init__(self) -> None:
        """Nobody is there yet."""
        self._reached, self._released = asyncio.Event(), asyncio.Event()

    async def reached(self) -> None:
        """Wait until somebody is at the point."""
        await self._reached.wait()

    def release(self) -> None:
        """Let who is there go on, and everybody after."""
        self._released.set()

    async def passed(self) -> None:
        """Stand there; the wrapped store calls it."""
        self._reached.set()
        await self._released.wait()


@dataclass
class _Rule:
    point: str
    kind: str
    nth: int
    times: int | None
    value: Any = None
    passed: int = 0
    struck: int = 0

    def strikes(self, points: tuple[str, ...]) -> bool:
        """Count one that passes; whether the fault strikes it."""
        if self.point not in points:
            return False
        self.passed += 1
        is_due = self.passed >= self.nth
        if not is_due or (self.times is not None and self.passed >= self.nth + self.times):
            return False
        self.struck += 1
        return True


class Faults:
    """What is to go wrong, and what was passed; `faults` gives it.

    `nth` is the first time that a fault strikes, `times` how often in a row, None for ever.
    """

    def __init__(self, stores: Mapping[str, Any], may_kill: bool) -> None:
        """Wrap the stores; nothing goes wrong yet."""
        self._may_kill = may_kill
        self._rules: list[_Rule] = []
        self.passed: list[str] = []
        """Every point that was passed, in order."""
        self.stores: dict[str, Any] = {
            name: FaultyStore(name, store, self) for name, store in stores.items()
        }
        """The wrapped stores, by name."""

    @property
    def store(self) -> Any:
        """The wrapped store, where there is one."""
        (store,) = self.stores.values()
        return store

    def delay(self, point: str, seconds: float, *, nth: int = 1, times: int | None = 1) -> None:
        """Have the question wait before the store is asked."""
        self._add(point, "delay", nth, times, seconds)

    def hold(self, point: str, *, nth: int = 1, times: int | None = 1) -> Held:
        """Have the question wait until the test lets it go on."""
        held = Held()
        self._add(point, "hold", nth, times, held)
        return held

    def drop(self, point: str, *, nth: int = 1, times: int | None = 1) -> None:
        """Lose the question: the store is not asked, and the engine hears that it is unknown."""
        self._add(point, "drop", nth, times)

    def drop_answer(self, point: str, *, nth: int = 1, times: int | None = 1) -> None:
        """Lose the answer: the store does it, and the engine hears that it is unknown."""
        self._add(point, "drop_answer", nth, times)

    def duplicate(self, point: str, *, nth: int = 1, times: int | None = 1) -> None:
        """Ask the store twice, one after the other; the second answer counts."""
        self._add(point, "duplicate", nth, times)

    def fail(
        self,
        point: str,
        error: str | Exception = "a test made it fail",
        *,
        nth: int = 1,
        times: int | None = 1,
    ) -> None:
        """Have the store refuse without doing it: ABORT or FAILED with these words, or an error."""
        if point.partition(":")[0] in ("list", "apply") and isinstance(error, str):
            error = StoreError(error)
        self._add(point, "fail", nth, times, error)

    def crash_before(self, point: str, *, nth: int = 1) -> None:
        """Kill this process before the store is asked."""
        self._add_crash(point, "crash_before", nth)

    def crash_after(self, point: str, *, nth: int = 1) -> None:
        """Kill this process when the store has done it, before anybody hears."""
        self._add_crash(point, "crash_after", nth)

    def clear(self) -> None:
        """Have nothing go wrong any more; who is held goes on."""
        for rule in self._rules:
            if rule.kind == "hold":
                rule.value.release()
        self._rules.clear()

    @property
    def unreached(self) -> list[str]:
        """The faults that have not struck: a test that relies on them proves nothing."""
        return [f"{rule.kind} {rule.point}" for rule in self._rules if not rule.struck]

    def _add_crash(self, point: str, kind: str, nth: int) -> None:
        if not (self._may_kill or _may_kill):
            raise ConfigError(
                f"{kind}('{point}') would kill this very process, the test's; let `replay` run "
                "the scenario in a process of its own, or say faults(..., may_kill=True) in one"
            )
        self._add(point, kind, nth, 1)

    def _add(self, point: str, kind: str, nth: int, times: int | None, value: Any = None) -> None:
        question, _, rest = point.partition(":")
        store = rest.partition(":")[0]
        if question not in QUESTIONS.values() or store not in self.stores:
            raise ConfigError(
                f"'{point}' is no point; give <question>:<store>, one of "
                f"{', '.join(QUESTIONS.values())} and one of {', '.join(self.stores)}"
            )
        if nth < 1 or (times is not None and times < 1):
            raise ConfigError("nth and times count from 1")
        self._rules.append(_Rule(point, kind, nth, times, value))

    async def ask(self, question: str, name: str, call: Callable[[], Any], type: str) -> Any:
        """Pass one question on, with what is to go wrong; the wrapped stores call it."""
        points = (f"{question}:{name}", f"{question}:{name}:{type}")
        self.passed.append(points[0])
        due = {rule.kind: rule for rule in self._rules if rule.strikes(points)}
        if "crash_before" in due:
            os.kill(os.getpid(), signal.SIGKILL)
        if "delay" in due:
            await asyncio.sleep(due["delay"].value)
        if "hold" in due:
            await due["hold"].value.passed()
        if "drop" in due:
            raise FaultInjected(f"{points[0]} was lost on its way", store=name)
        if "fail" in due:
            error = due["fail"].value
            if isinstance(error, Exception):
                raise error
            return _ANSWERS[question](name, error)
        answer = await call()
        if "duplicate" in due:
            answer = await call()
        if "crash_after" in due:
            os.kill(os.getpid(), signal.SIGKILL)
        if "drop_answer" in due:
            raise FaultInjected(f"the answer to {points[0]} was lost", store=name)
        return answer


class FaultyStore:
    """A store as it is, apart from the faults; it has exactly the methods that the store has."""

    def __init__(self, name: str, store: Any, faults: Faults) -> None:
        """Wrap it; `faults` does this."""
        self._name, self._store, self._faults = name, store, faults

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._store, attribute)
        question = QUESTIONS.get(attribute)
        if question is None:
            return found
        method = own_method(self._store, attribute)
        if method is None:
            raise AttributeError(f"the store '{self._name}' has no {attribute}()")

        async def ask(*arguments: Any) -> Any:
            async def call() -> Any:
                if is_async(method):
                    return await method(*arguments)
                return await in_thread(method, *arguments)

            operation = getattr(arguments[0], "operation", {}) if arguments else {}
            return await self._faults.ask(question, self._name, call, str(operation.get("type")))

        return ask

    def __repr__(self) -> str:
        return f"<{self._store!r} with faults>"


@contextmanager
def faults(target: Any, *, may_kill: bool = False) -> Iterator[Faults]:
    """Wrap the stores of a service that has not started, a mapping of stores, or one store.

    A service asks the wrapped stores from its start on, also behind the block, where nothing goes
    wrong any more. Of the others, hand `inject.stores` or `inject.store` to your service. Stores
    written in Rust are wrapped by their Python face, which has no steps: a saga cannot use them so.
    """
    if isinstance(target, CoordinationService):
        if target._started is not None:
            raise ConfigError("the service has started; begin `faults` before its first use")
        stores = dict(target.stores)
    elif isinstance(target, Mapping):
        stores = dict(target)
    else:
        stores = {str(getattr(target, "store_name", "store")): target}
    injected = Faults(stores, may_kill)
    if isinstance(target, CoordinationService):
        target.stores.update(injected.stores)
    try:
        yield injected
    finally:
        injected.clear()
