"""Bad input, as a table: each case is an answer that says what, where and how to mend it.

Every case runs against real stores, and afterwards nothing is half done: no store has changed,
nothing is prepared, and the next good request commits.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger, request
from unanimity import (
    CommitResult,
    ConfigError,
    CoordinationService,
    CoordinationType,
    IStorageStore,
    JournalError,
    Outcome,
    PrepareResult,
    StoreError,
    UnanimityError,
)
from unanimity.stores import FileStore, MemoryStore, PostgresStore, SqliteStore

Make = Callable[..., CoordinationService]

PUT = {"store": "left", "type": "put", "key": "k", "value": 1}


def with_operation(**changes: Any) -> dict[str, Any]:
    """Changes of a request: its first operation is another one."""
    changed = {key: value for key, value in {**PUT, **changes}.items() if value is not ...}
    return {"operations": [changed, {**PUT, "store": "right"}]}


LONG = "x" * 129

# What is changed in a good request, and words that the message must have.
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "empty id": ({"coordination_id": ""}, ["coordination_id", "empty"]),
    "long id": ({"coordination_id": LONG}, ["coordination_id", "129", "128"]),
    "nul in id": ({"coordination_id": "a\0b"}, ["coordination_id", "NUL"]),
    "id of another type": ({"coordination_id": 7}, ["coordination_id", "int", "str"]),
    "unknown type": ({"coordination_type": "3pc"}, ["coordination_type", "3pc"]),
    "type that a store cannot serve": (
        {"coordination_type": CoordinationType.SAGA_ORCHESTRATION},
        ["'left'", "execute_operation()", "saga_orchestration"],
    ),
    "unknown level": (
        {"consistency_level": "sloppy"},
        ["consistency_level", "sloppy", "strong"],
    ),
    "negative timeout": ({"timeout_seconds": -1}, ["timeout_seconds", "-1", "greater than 0"]),
    "no timeout": ({"timeout_seconds": 0}, ["timeout_seconds", "greater than 0"]),
    "timeout not a number": ({"timeout_seconds": float("nan")}, ["timeout_seconds"]),
    "timeout as text": ({"timeout_seconds": "30"}, ["timeout_seconds", "str"]),
    "no stores": ({"participating_stores": [], "operations": []}, ["participating_stores"]),
    "stores as text": ({"participating_stores": "left"}, ["participating_stores", "str"]),
    "store named twice": ({"participating_stores": ["left", "left"]}, ["left", "twice"]),
    "unknown store": (
        {"participating_stores": ["left", "nowhere"], "operations": []},
        ["nowhere", "left", "right"],
    ),
    "operations as a dict": ({"operations": {"store": "left"}}, ["operations", "dict"]),
    "operation as text": ({"operations": ["put"]}, ["operations[0]", "str", "dict"]),
    "operation without store": (with_operation(store=...), ["operations[0]", "store"]),
    "operation without type": (with_operation(type=...), ["operations[0]", "type"]),
    "operation with an empty type": (with_operation(type=""), ["operations[0]", "type"]),
    "operation for a store outside": (
        with_operation(store="nowhere"),
        ["operations[0]", "nowhere", "participating_stores"],
    ),
    "operation id twice": (
        {"operations": [{**PUT, "operation_id": "o"}, {**PUT, "operation_id": "o"}]},
        ["operations[1]", "'o'"],
    ),
    "long operation id": (with_operation(operation_id=LONG), ["operations[0]", "operation_id"]),
    "unknown access": (with_operation(access="peek"), ["operations[0]", "access", "peek"]),
    "negative retries": (with_operation(max_retries=-1), ["operations[0]", "max_retries"]),
    "object as a value": (with_operation(value=object()), ["operations[0]", "value", "object"]),
    "set as a value": (with_operation(value={1, 2}), ["operations[0]", "value", "set"]),
    "nan as a value": (with_operation(value=float("nan")), ["operations[0]", "value", "nan"]),
    "number as a key": (with_operation(value={1: 2}), ["operations[0]", "value", "int"]),
    "huge number": (with_operation(value=1 << 64), ["operations[0]", "value", "64"]),
    "lone surrogate": (with_operation(value="\ud800"), ["operations[0]", "value"]),
    "metadata as a list": ({"metadata": [1]}, ["metadata", "list", "dict"]),
    "object in metadata": ({"metadata": {"a": [object()]}}, ["metadata", "object"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_is_refused_and_nothing_happens(
    case: str, make_service: Make, ledgers: dict[str, Ledger]
) -> None:
    changes, words = REFUSED[case]

    async def scenario() -> None:
        async with make_service(ledgers) as service:
            result = await service.coordinate_transaction(request("t1", **changes))
            assert result.outcome is Outcome.REFUSED
            assert (result.code or "").startswith("request.")
            for word in words:
                assert word.lower() in str(result.error_message).lower()
            assert ledgers["left"].calls == ledgers["right"].calls == []
            assert list(await service.history()) == []
            # A refused id is not used up.
            assert (await service.coordinate_transaction(request("t1"))).success

    asyncio.run(scenario())


# What prepare gives instead of a vote, and words that the message must have.
BAD_VOTES: dict[str, tuple[Any, list[str]]] = {
    "a word outside the vocabulary": (PrepareResult("left", "MAYBE"), ["left", "MAYBE", "COMMIT"]),
    "lower case": (PrepareResult("left", "commit"), ["left", "commit", "COMMIT"]),
    "another type": ("COMMIT", ["left", "prepare_transaction", "PrepareResult"]),
    "the answer to another question": (CommitResult("left", "SUCCESS"), ["left", "CommitResult"]),
    "an exception": (ValueError("broken pipe"), ["left", "ValueError", "broken pipe"]),
    "a refusal": (PrepareResult("left", "ABORT", "no room"), ["left", "no room"]),
}


@pytest.mark.parametrize("case", BAD_VOTES)
def test_an_answer_that_is_no_vote_aborts_and_names_the_store(
    case: str, make_service: Make, ledgers: dict[str, Ledger]
) -> None:
    answer, words = BAD_VOTES[case]
    ledgers["left"].answer = answer

    async def scenario() -> None:
        async with make_service(ledgers) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert result.outcome is Outcome.ABORTED
            for word in words:
                assert word in str(result.error_message)
            await service.wait_for("t1", timeout=10)
            assert (ledgers["right"].values, ledgers["right"].staged) == ({}, {})

    asyncio.run(scenario())


def test_a_store_without_a_needed_method_is_refused_by_name(make_service: Make) -> None:
    class Half(IStorageStore):
        store_name = "half"

        async def prepare_transaction(self, request: Any) -> PrepareResult:
            raise AssertionError("not to be asked")

    good = Ledger("good")

    async def scenario() -> None:
        async with make_service({"half": Half(), "bare": object(), "good": good}) as service:
            for store, method in (("half", "commit_transaction"), ("bare", "prepare_transaction")):
                result = await service.coordinate_transaction(request(f"t-{store}", "good", store))
                assert (result.outcome, result.code) == (Outcome.REFUSED, "request.missing_method")
                assert f"'{store}'" in str(result.error_message)
                assert method in str(result.error_message)
            assert good.calls == []
            assert (await service.coordinate_transaction(request("t1", "good"))).success

    asyncio.run(scenario())


# Operations that only the store can judge, and words that its reason must have.
STORE_CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "path upwards": ({"store": "blobs", "type": "put", "key": "../x", "value": "v"}, ["../x"]),
    "path inside upwards": (
        {"store": "blobs", "type": "put", "key": "a/../../x", "value": "v"},
        ["a/../../x"],
    ),
    "absolute path": ({"store": "blobs", "type": "put", "key": "/etc/x", "value": "v"}, ["/etc/x"]),
    "empty path": ({"store": "blobs", "type": "put", "key": "", "value": "v"}, ["key"]),
    "link out": ({"store": "blobs", "type": "put", "key": "out/x", "value": "v"}, ["out/x"]),
    "our own folder": (
        {"store": "blobs", "type": "put", "key": ".unanimity/x", "value": "v"},
        [".unanimity"],
    ),
    "file value of another type": (
        {"store": "blobs", "type": "put", "key": "a", "value": 7},
        ["value", "int"],
    ),
    "no key": ({"store": "cache", "type": "put", "value": 7}, ["key"]),
    "no value": ({"store": "cache", "type": "put", "key": "a"}, ["value"]),
    "type that a store does not know": ({"store": "cache", "type": "burn"}, ["burn", "put"]),
    "failed check": ({"store": "cache", "type": "check", "key": "a", "exists": True}, ["a"]),
    "bad SQL": ({"store": "rows", "type": "execute", "statement": "SELEKT 1"}, ["SELEKT"]),
    "no statement": ({"store": "rows", "type": "execute"}, ["statement"]),
    "wrong number of parameters": (
        {"store": "rows", "type": "execute", "statement": "INSERT INTO t VALUES (?)"},
        ["parameter"],
    ),
    "other number of rows": (
        {"store": "rows", "type": "execute", "statement": "DELETE FROM t", "expect_rows": 3},
        ["expect_rows", "3", "1"],
    ),
    "no such table": (
        {"store": "rows", "type": "execute", "statement": "DELETE FROM missing"},
        ["missing"],
    ),
    "transaction control": ({"store": "rows", "type": "execute", "statement": "COMMIT"}, ["rows"]),
}


@pytest.mark.parametrize("case", STORE_CASES)
def test_what_a_native_store_cannot_do_aborts_everything(
    case: str, make_service: Make, tmp_path: Path
) -> None:
    operation, words = STORE_CASES[case]
    (tmp_path / "blobs").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "blobs" / "out").symlink_to(tmp_path / "outside")
    cache, blobs = MemoryStore("cache"), FileStore(tmp_path / "blobs", "blobs")
    rows = SqliteStore(tmp_path / "rows.db", "rows")
    stores = {"cache": cache, "blobs": blobs, "rows": rows}
    good = [
        {"store": "cache", "type": "put", "key": "k", "value": 1},
        {"store": "blobs", "type": "put", "key": "k", "value": "v"},
        {"store": "rows", "type": "execute", "statement": "INSERT INTO t VALUES (1)"},
    ]

    async def scenario() -> None:
        async with make_service(stores) as service:
            async with service.transaction() as tx:
                tx.add("rows", "execute", statement="CREATE TABLE t (n INTEGER)")
            result = await service.coordinate_transaction(
                request("t1", *stores, operations=[*good, operation])
            )
            assert result.outcome is Outcome.ABORTED
            for word in [operation["store"], *words]:
                assert word in str(result.error_message)
            await service.wait_for("t1", timeout=10)
            assert await cache.get("k") is None
            assert await blobs.get("k") is None
            assert await rows.fetch("SELECT * FROM t") == []
            for store in (cache, blobs, rows):
                assert await store.list_prepared_transactions() == []
            again = await service.coordinate_transaction(request("t2", *stores, operations=good))
            assert again.outcome is Outcome.COMMITTED

    asyncio.run(scenario())
    assert list((tmp_path / "outside").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir() if p.name in ("x", "etc")) == []


def test_a_query_that_is_wrong_is_a_store_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        rows = SqliteStore(tmp_path / "rows.db", "rows")
        with pytest.raises(StoreError, match="missing") as caught:
            await rows.fetch("SELECT * FROM missing")
        assert caught.value.store == "rows"
        with pytest.raises(UnanimityError):
            await rows.fetch("SELECT ?", [object()])

    asyncio.run(scenario())


def test_a_dsn_that_does_not_answer_says_so(make_service: Make) -> None:
    with socket.socket() as taken:
        # Bound and not listening, so that whoever connects is refused.
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        async def scenario() -> None:
            store = PostgresStore(f"postgresql://nobody@127.0.0.1:{port}/none", "people")
            with pytest.raises(UnanimityError) as caught:
                async with make_service({"people": store}):
                    raise AssertionError("it cannot start")
            assert "people" in str(caught.value) and str(port) in str(caught.value)

        asyncio.run(scenario())


CONSTRUCTORS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "stores as a list": (lambda _: CoordinationService([]), ["stores", "list"]),  # type: ignore[arg-type]
    "store without a name": (lambda _: CoordinationService({"": object()}), ["''", "128"]),
    "store with a long name": (lambda _: CoordinationService({LONG: object()}), ["128"]),
    "class as a store": (lambda _: CoordinationService({"a": Ledger}), ["'a'", "instance"]),
    "no journal": (lambda _: CoordinationService({}, journal=""), ["journal", "memory:"]),
    "journal not served": (
        lambda _: CoordinationService({}, journal="mysql://x"),
        ["journal", "mysql://", "postgresql://"],
    ),
    "config as text": (lambda _: CoordinationService({}, config="fast"), ["config", "str"]),  # type: ignore[arg-type]
    "unknown section": (
        lambda _: CoordinationService({}, config={"speed": {}}),
        ["config['speed']", "timeouts"],
    ),
    "unknown setting": (
        lambda _: CoordinationService({}, config={"timeouts": {"prepare": 1}}),
        ["config['timeouts']['prepare']", "prepare_phase_timeout_seconds"],
    ),
    "setting out of range": (
        lambda _: CoordinationService({}, config={"performance": {"batch_size": 0}}),
        ["batch_size", "0", "from 1"],
    ),
    "setting of another type": (
        lambda _: CoordinationService({}, config={"performance": {"batch_size": 1.5}}),
        ["batch_size", "1.5", "whole number"],
    ),
    "store without a path": (lambda _: SqliteStore(""), ["path"]),
    "path of another type": (lambda _: FileStore(7), ["root", "7"]),  # type: ignore[arg-type]
    "no connections": (
        lambda _: PostgresStore("postgresql://x", max_connections=0),
        ["max_connections", "0"],
    ),
}


@pytest.mark.parametrize("case", CONSTRUCTORS)
def test_a_wrong_argument_of_a_constructor_is_a_config_error(case: str, tmp_path: Path) -> None:
    make, words = CONSTRUCTORS[case]
    with pytest.raises(ConfigError) as caught:
        make(tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_a_journal_that_is_none_is_an_error_and_stays_as_it_was(
    make_service: Make, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.db"
    foreign.write_bytes(b"this is a letter to a friend\n" * 100)
    before = foreign.read_bytes()

    async def scenario(journal: Path) -> None:
        service = make_service({"left": Ledger("left")}, journal=journal)
        with pytest.raises(JournalError) as caught:
            await service.start()
        assert str(journal) in str(caught.value)
        # It can be mended and started: a failed start leaves nothing behind.
        with pytest.raises(JournalError):
            await service.coordinate_transaction(request("t1", "left"))
        await service.close()

    asyncio.run(scenario(foreign))
    assert foreign.read_bytes() == before
    asyncio.run(scenario(tmp_path / "no" / "such" / "folder" / "journal.db"))


@pytest.mark.parametrize("word", ["memory:", ":memory:"])
def test_a_journal_in_memory_makes_no_file(
    word: str, make_service: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def scenario() -> None:
        async with make_service({"left": Ledger("left")}, journal=word) as service:
            assert (await service.coordinate_transaction(request("t1", "left"))).success

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []
