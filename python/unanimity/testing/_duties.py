"""What a duty of a store is, and what it is tried with: fresh names, the store's words, restarts.

Not the duties themselves (`_two_phase`, `_steps`, `_kills`). Invariants: each duty has its own
transactions and keys; what it leaves prepared is aborted behind it, so that one broken duty breaks
no other.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from .._stores import OperationRequest
from ._asked import Asked
from ._words import Operation, StoreWords


class Broken(Exception):
    """A duty is not kept; `about` are the transactions and keys whose calls show it."""

    def __init__(self, words: str, *about: str) -> None:
        """Say what was seen, in plain words."""
        super().__init__(words)
        self.about = about


class NotShown(Exception):
    """The store does not have what this duty is about; that is allowed, and reported."""


def expect(holds: bool, words: str, *about: str) -> None:
    """Break the duty unless something holds."""
    if not holds:
        raise Broken(words, *about)


@dataclass(frozen=True)
class Duty:
    """One duty: its name, the promise in plain words, and how it is tried."""

    name: str
    promise: str
    run: Callable[[Bench], Awaitable[None]]
    needs: tuple[str, ...] = ()
    """Methods without which the duty is not there."""
    is_durable: bool = False
    """Whether it is about what survives the process."""
    is_killing: bool = False
    """Whether it needs a child process, so that the store has to be made by name."""


@dataclass
class Bench:
    """What a duty is tried with."""

    make: Callable[..., Any]
    maker_name: str | None
    """`module:function`, or `file.py:function`; None where a child could not find it."""
    arguments: tuple[Any, ...]
    words: StoreWords
    seconds: float
    random: Random
    prefix: str = field(default_factory=lambda: f"kit-{secrets.token_hex(4)}")
    asked: Asked = field(init=False)
    _begun: int = 0
    _names: int = 0
    _open: set[str] = field(default_factory=set)
    note: str = ""
    """What a duty that is kept wants to be told beside it."""

    async def open(self) -> None:
        """Open the store, as a new process would."""
        store = self.make(*self.arguments)
        if inspect.isawaitable(store):
            store = await store
        history = self.asked.history if hasattr(self, "asked") else []
        self.asked = Asked(store, self.seconds)
        self.asked.history = history

    def begin(self) -> None:
        """Forget the duty before: history, note, and the numbers of names."""
        self._begun += 1
        self._names = 0
        self.asked.history, self.note = [], ""

    async def close(self) -> None:
        """Close it; what is prepared stays prepared."""
        await self.asked.close()

    def transaction(self, tail: str = "") -> str:
        """Give an id that nobody had before."""
        self._names += 1
        name = f"{self.prefix}{self._begun:02}-t{self._names}{tail}"
        self._open.add(name)
        return name

    def key(self) -> str:
        """Give a key that has no value."""
        self._names += 1
        return f"{self.prefix}{self._begun:02}-k{self._names}"

    def put(self, key: str, value: str) -> Operation:
        """Give the store's own operation."""
        return {**self.words.put(key, value), "store": self.asked.name}

    def bad(self, key: str) -> Operation:
        """Give one that must be refused."""
        return {**self.words.bad(key), "store": self.asked.name}

    def step(self, key: str, value: str, transaction: str | None = None) -> OperationRequest:
        """Give the question for one operation of a saga, with its undoing."""
        transaction_id = self.transaction() if transaction is None else transaction
        operation_id = f"{transaction_id}:{key}"
        operation = {**self.put(key, value), "operation_id": operation_id}
        if self.words.undo is not None:
            operation["compensation"] = self.words.undo(key)
        return OperationRequest(transaction_id, operation_id, operation, 1, {}, self.seconds)

    async def read(self, key: str) -> str | None:
        """Read what is committed."""
        return await self.asked.read(self.words.read, key)

    async def prepared(self, transaction_id: str, key: str, value: str) -> None:
        """Prepare one good operation, which must be voted COMMIT."""
        vote = await self.asked.prepare(transaction_id, self.put(key, value))
        words = f"the vote for one good operation is {vote}, not COMMIT"
        expect(vote == "COMMIT", words, transaction_id)

    async def committed(self, key: str, value: str) -> str:
        """Change a key in a transaction of its own; the transaction's id."""
        transaction_id = self.transaction()
        await self.prepared(transaction_id, key, value)
        await self.ended("commit", transaction_id)
        return transaction_id

    async def ended(self, what: str, transaction_id: str) -> None:
        """Commit or abort, which must be acknowledged."""
        ask = self.asked.commit if what == "commit" else self.asked.abort
        status = await ask(transaction_id)
        expect(status == "SUCCESS", f"{what} is answered {status}, not SUCCESS", transaction_id)

    async def shows(self, key: str, value: str | None, why: str, *about: str) -> None:
        """Hold a committed value against what it should be."""
        found = await self.read(key)
        words = f"{why}: {key} should be {value!r}, and is {found!r}"
        expect(found == value, words, key, *about)

    async def frees(self, key: str, transaction: str) -> None:
        """Hold that somebody else can change the key of a transaction that was aborted."""
        after = await self.committed(key, "two")
        await self.shows(key, "two", "the key is free after the abort", transaction, after)

    async def is_listed(self, transaction_id: str) -> bool | None:
        """Whether it is named as prepared; None where the store cannot tell."""
        listed = await self.asked.listed(transaction_id)
        return None if listed is None else transaction_id in listed

    async def unlisted(self, transaction_id: str, why: str) -> None:
        """Hold that nothing of it is prepared."""
        words = f"{why}, and list_prepared_transactions still names it"
        expect(await self.is_listed(transaction_id) is not True, words, transaction_id)

    async def tidy(self) -> None:
        """Abort what a duty left, however it went."""
        history = list(self.asked.history)
        for transaction_id in sorted(self._open):
            await self.asked.abort(transaction_id)
        self._open.clear()
        self.asked.history = history
