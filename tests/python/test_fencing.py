"""Fencing tokens at the boundary: what a Python store is shown, and what native stores refuse."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unanimity import InvalidRequest, PrepareRequest
from unanimity._stores import FencingToken
from unanimity.stores import FileStore, MemoryStore, SqliteStore

PUT = {"type": "put", "key": "a", "value": "1"}
INSERT = {"type": "execute", "statement": "INSERT INTO t VALUES (1)"}
CREATE = {"type": "execute", "statement": "CREATE TABLE t (a)"}

STORES: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "memory": (lambda _: MemoryStore(), PUT),
    "files": (FileStore, PUT),
    "sqlite": (lambda folder: SqliteStore(folder / "data.db"), INSERT),
}


def test_a_request_of_three_arguments_has_no_tokens_and_shares_none() -> None:
    one, other = PrepareRequest("t", [], 5), PrepareRequest("t", [], 5)
    assert one.fencing_tokens == {} and one == other
    assert one.fencing_tokens is not other.fencing_tokens


def test_a_token_is_an_int_that_keeps_its_lock_type_in_copies() -> None:
    token = FencingToken(7, "shared")
    assert token == 7 and isinstance(token, int)
    for made in (copy.copy(token), copy.deepcopy(token), pickle.loads(pickle.dumps(token))):
        assert (made, made.lock_type) == (7, "shared")


@pytest.mark.parametrize("kind", STORES)
def test_a_native_store_refuses_a_late_token_and_knows_the_lock_types(
    kind: str, tmp_path: Path
) -> None:
    make, operation = STORES[kind]

    async def scenario() -> None:
        store = make(tmp_path)
        if kind == "sqlite":
            await store.prepare_transaction(PrepareRequest("table", [CREATE], 5))
            await store.commit_transaction("table")

        async def vote(name: str, tokens: dict[str, int]) -> tuple[str, str]:
            answer = await store.prepare_transaction(PrepareRequest(name, [operation], 5, tokens))
            await store.abort_transaction(name)
            return answer.vote, answer.reason or ""

        assert (await vote("later", {"bank/1": 7}))[0] == "COMMIT"
        said, reason = await vote("late", {"bank/1": 5})
        assert said == "ABORT" and "the lock on 'bank/1' was lost" in reason
        shared = [FencingToken(9, "shared"), FencingToken(8, "shared")]
        for number, token in enumerate(shared):
            assert (await vote(f"shared{number}", {"bank/1": token}))[0] == "COMMIT"
        for bad in ({"": 1}, {"a": -1}, {"a": "7"}, {1: 7}):
            with pytest.raises(InvalidRequest, match="fencing_tokens"):
                await vote("bad", bad)  # type: ignore[arg-type]
        await store.close()

    asyncio.run(scenario())
