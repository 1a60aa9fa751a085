"""A store as the kit asks it: every call has an end, an answer in one word, and is written down.

Not a judge: what an answer should be is said by the duties. Invariant: no call raises or hangs;
what a store raises, and an answer that is none, are answers too, and break what they stand in.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._exceptions import Permanent
from .._stores import OperationRequest, PrepareRequest, is_async, own_method

VOTES = ("COMMIT", "ABORT", "READ_ONLY")
STATUSES = ("SUCCESS", "FAILED")


@dataclass(frozen=True)
class Call:
    """One question and its answer, in words."""

    about: str
    """The transaction's id, or the key that was read."""
    question: str
    answer: str

    def __str__(self) -> str:
        return f"{self.question} -> {self.answer}"


@dataclass(frozen=True)
class Done:
    """The answer to an operation."""

    status: str
    result: Any = None
    retryable: bool = True


class Asked:
    """A store, its calls bounded in time and written down."""

    def __init__(self, store: Any, seconds: float) -> None:
        """Ask `store`, waiting `seconds` for each answer."""
        self.store = store
        self.name = str(getattr(store, "store_name", type(store).__name__))
        self.seconds = seconds
        self.history: list[Call] = []

    def has(self, method: str) -> bool:
        """Whether the store has this method of its own."""
        return own_method(self.store, method) is not None

    async def prepare(
        self,
        transaction_id: str,
        *operations: dict[str, Any],
        tokens: dict[str, int] | None = None,
    ) -> str:
        """Ask for the vote; `tokens` are those of its locks."""
        request = PrepareRequest(transaction_id, [*operations], self.seconds, tokens or {})
        question = f"prepare {transaction_id} {[plain(operation) for operation in operations]}"
        if tokens:
            question += f" under {tokens}"
        found = await self._ask("prepare_transaction", question, transaction_id, request)
        return self._word(question, transaction_id, found, "vote", VOTES)

    async def commit(self, transaction_id: str) -> str:
        """Tell it to commit."""
        question = f"commit {transaction_id}"
        found = await self._ask("commit_transaction", question, transaction_id, transaction_id)
        return self._word(question, transaction_id, found, "status", STATUSES)

    async def abort(self, transaction_id: str) -> str:
        """Tell it to abort."""
        question = f"abort {transaction_id}"
        found = await self._ask("abort_transaction", question, transaction_id, transaction_id)
        return self._word(question, transaction_id, found, "status", STATUSES)

    async def listed(self, about: str) -> list[str] | None:
        """What it names as prepared; None where it has no such method, or gave no list."""
        if not self.has("list_prepared_transactions"):
            return None
        question = "list"
        found = await self._ask("list_prepared_transactions", question, about)
        if isinstance(found, _NoAnswer):
            return None
        try:
            names = [str(name) for name in found]
        except TypeError:
            self._write(about, question, f"{found!r}, which is no list")
            return None
        shown = [name for name in names if name == about]
        others = "" if len(shown) == len(names) else f" and {len(names) - len(shown)} others"
        self._write(about, question, f"{shown}{others}")
        return names

    async def execute(self, request: OperationRequest) -> Done:
        """Ask for one operation."""
        return await self._step("execute", request)

    async def compensate(self, request: OperationRequest) -> Done:
        """Ask to undo it."""
        return await self._step("compensate", request)

    async def read(self, reader: Callable[[Any, str], Any], key: str) -> str | None:
        """Read what is committed under a key."""
        try:
            value = reader(self.store, key)
            if inspect.isawaitable(value):
                value = await asyncio.wait_for(_awaited(value), self.seconds)
        except Exception as error:
            value = f"<{type(error).__name__}: {error}>"
        self._write(key, f"read {key}", repr(value))
        return None if value is None else str(value)

    async def close(self) -> None:
        """Close it, if it can be closed."""
        if self.has("close"):
            await self._ask("close", "close", "")

    async def _step(self, work: str, request: OperationRequest) -> Done:
        about = request.transaction_id
        question = f"{work} {about}/{request.operation_id} {plain(request.operation)}"
        found = await self._ask(f"{work}_operation", question, about, request)
        if isinstance(found, _NoAnswer):
            # The one exception with a meaning of its own: it had no effect, and never will.
            is_final = isinstance(found.error, Permanent)
            return Done("FAILED" if is_final else "UNKNOWN", retryable=not is_final)
        status = self._word(question, about, found, "status", STATUSES)
        result = getattr(found, "result", None)
        try:
            json.dumps(result)
        except (TypeError, ValueError):
            self._write(about, question, f"a result that JSON cannot hold: {result!r}")
            status = "a result that JSON cannot hold"
        return Done(status, result, bool(getattr(found, "retryable", True)))

    async def _ask(self, method: str, question: str, about: str, *arguments: Any) -> Any:
        found = own_method(self.store, method)
        if found is None:
            self._write(about, question, f"there is no {method}()")
            return _NoAnswer(None)
        try:
            if is_async(found):
                answer = await asyncio.wait_for(found(*arguments), self.seconds)
            else:
                # As in a service, where plain methods run in threads.
                started = asyncio.to_thread(found, *arguments)
                answer = await asyncio.wait_for(started, self.seconds)
            if inspect.isawaitable(answer):
                answer = await asyncio.wait_for(_awaited(answer), self.seconds)
        except asyncio.TimeoutError:
            self._write(about, question, f"no answer within {self.seconds:g} s")
            return _NoAnswer(None)
        except Exception as error:
            self._write(about, question, f"raised {type(error).__name__}: {error}")
            return _NoAnswer(error)
        return answer

    def _word(
        self, question: str, about: str, answer: Any, field: str, known: tuple[str, ...]
    ) -> str:
        """The answer's one word; what is not among the known ones is told as it is."""
        if isinstance(answer, _NoAnswer):
            return "UNKNOWN"
        word = getattr(answer, field, None)
        reason = getattr(answer, "reason", None) or getattr(answer, "error_message", None)
        if word not in known:
            self._write(about, question, f"{answer!r}, whose {field} is none of {known}")
            return f"no {field}"
        self._write(about, question, f"{word} ({reason})" if reason else str(word))
        return str(word)

    def _write(self, about: str, question: str, answer: str) -> None:
        self.history.append(Call(about, question, answer))


@dataclass(frozen=True)
class _NoAnswer:
    error: Exception | None


async def _awaited(answer: Any) -> Any:
    return await answer


def plain(operation: dict[str, Any]) -> str:
    """An operation in short: its type and what else it says, without what the kit added."""
    rest = {name: value for name, value in operation.items() if name not in _ADDED}
    return " ".join([str(operation.get("type")), *(f"{name}={rest[name]!r}" for name in rest)])


_ADDED = ("type", "store", "operation_id", "compensation")
