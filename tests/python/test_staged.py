"""`StagedStore`: a store with read, write and delete alone keeps every duty, also when it is killed
between two writes, and in a service.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from staged_folder import DIES, Carrying, Folder
from unanimity import (
    ConfigError,
    CoordinationService,
    CoordinationType,
    OperationRequest,
    OperationResult,
    PrepareRequest,
)
from unanimity._stores import FencingToken
from unanimity.stores import SqliteStore
from unanimity.testing import check_store

HERE = Path(__file__).parent


def put(key: str, value: Any) -> dict[str, Any]:
    return {"type": "put", "key": key, "value": value}


def run(work: Callable[[Folder], Coroutine[Any, Any, None]], folder: Path) -> None:
    async def inside() -> None:
        store = Folder(str(folder))
        await work(store)
        await store.close()

    asyncio.run(inside())


async def vote(store: Folder, name: str, *operations: dict[str, Any], **more: Any) -> Any:
    answer = await store.prepare_transaction(PrepareRequest(name, list(operations), 5, **more))
    return answer.reason or answer.vote


@pytest.mark.parametrize("kind", [Folder, Carrying])
def test_it_keeps_every_duty(tmp_path: Path, kind: type[Folder]) -> None:
    report = check_store(kind, tmp_path)
    assert {result.state for result in report.duties} == {"kept"}


def test_without_a_place_for_its_staging_area_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give one or write the other"):
        Folder(str(tmp_path), None)


def test_what_could_not_be_saved_is_not_staged(tmp_path: Path) -> None:
    async def work() -> None:
        store = Carrying(str(tmp_path))
        kept, failing = store.save_staging, OSError("the disk is full")

        def fail(text: str) -> None:
            raise failing

        store._staging._save = fail  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="the disk is full"):
            await vote(store, "t", put("a", 1))
        store._staging._save = kept  # type: ignore[attr-defined]
        assert await store.list_prepared_transactions() == []
        assert await vote(store, "u", put("a", 1)) == "COMMIT"

    asyncio.run(work())


# --- killed between two writes -----------------------------------------------------------------

COMMIT = """
import asyncio, sys
from staged_folder import Folder
from unanimity import PrepareRequest

async def work():
    store = Folder(sys.argv[1])
    operations = [{"type": "put", "key": key, "value": 1} for key in "ab"]
    await store.prepare_transaction(PrepareRequest("t", operations, 5))
    await store.commit_transaction("t")

asyncio.run(work())
"""

STEP = """
import asyncio, sys
from staged_folder import Folder
from unanimity import OperationRequest

async def work():
    store = Folder(sys.argv[1])
    undo = {"type": "delete", "key": "a"}
    operation = {"type": "put", "key": "a", "value": 1, "compensation": undo}
    await store.execute_operation(OperationRequest("t", "t:0", operation, 1, {}, 5))

asyncio.run(work())
"""


def die(program: str, folder: Path, where: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env={**os.environ, "PYTHONPATH": str(HERE), DIES: where},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("where", ["before#1", "after#1", "before#2", "after#2"])
def test_a_commit_that_was_killed_on_its_way_is_finished_and_never_undone(
    tmp_path: Path, where: str
) -> None:
    die(COMMIT, tmp_path, where)

    async def work(store: Folder) -> None:
        assert await store.list_prepared_transactions() == ["t"]
        assert await vote(store, "u", put("b", 2)) == (
            "b is being changed by t; try again when it has ended"
        )
        undone = await store.abort_transaction("t")
        assert (undone.status, undone.error_message) == ("FAILED", "its commit was begun here")
        assert (await store.commit_transaction("t")).status == "SUCCESS"
        assert [await store.get(key) for key in "ab"] == [1, 1]
        assert await store.list_prepared_transactions() == []
        assert await vote(store, "v", put("b", 2)) == "COMMIT"

    run(work, tmp_path)


def step(operation: dict[str, Any], name: str = "t:0") -> OperationRequest:
    return OperationRequest("t", name, operation, 1, {}, 5)


UNDONE = {**put("a", 1), "compensation": {"type": "delete", "key": "a"}}


@pytest.mark.parametrize("where", ["before#1", "after#1"])
def test_a_step_that_was_killed_on_its_way_is_done_once_with_its_first_result(
    tmp_path: Path, where: str
) -> None:
    die(STEP, tmp_path, where)

    async def work(store: Folder) -> None:
        # Until it is asked again nobody else may have its key.
        assert "is being changed" in await vote(store, "u", put("a", 2))
        answer = await store.execute_operation(step(UNDONE))
        assert answer == OperationResult("folder", "SUCCESS", {"existed": False})
        assert await store.get("a") == 1

    run(work, tmp_path)


@pytest.mark.parametrize("where", ["before#1", "after#1"])
def test_a_step_that_was_killed_on_its_way_can_be_undone(tmp_path: Path, where: str) -> None:
    die(STEP, tmp_path, where)

    async def work(store: Folder) -> None:
        assert (await store.compensate_operation(step(UNDONE))).status == "SUCCESS"
        assert await store.get("a") is None
        assert await vote(store, "u", put("a", 2)) == "COMMIT"
        late = await store.execute_operation(step(UNDONE))
        assert (late.status, late.retryable) == ("FAILED", False)

    run(work, tmp_path)


# --- what it refuses ---------------------------------------------------------------------------


def test_checks_and_bad_operations_are_refused_with_their_reason(tmp_path: Path) -> None:
    async def work(store: Folder) -> None:
        assert await vote(store, "a", put("k", 1), {"type": "check", "key": "k", "value": 1}) == (
            "COMMIT"
        )
        await store.commit_transaction("a")
        bad: list[tuple[dict[str, Any], str]] = [
            ({"type": "check", "key": "k", "value": 2}, "k is 1, and not 2"),
            ({"type": "check", "key": "k", "exists": False}, "k exists"),
            ({"type": "check", "key": "x", "exists": True}, "x does not exist"),
            ({"type": "check", "key": "k"}, "says neither value nor exists"),
            ({"type": "jump", "key": "k"}, "there are put, delete and check"),
            ({"type": "put", "key": ""}, "give a str that is not empty"),
            ({"type": "put", "key": "k"}, "use delete"),
            (put("k", {"$result": "other"}), "does not know $result"),
            (put("k", {1, 2}), "cannot be staged as JSON"),
        ]
        for number, (operation, words) in enumerate(bad):
            assert words in await vote(store, f"bad-{number}", put("y", 1), operation)
        assert await store.list_prepared_transactions() == []
        assert await vote(store, "free", put("y", 1), put("k", 2)) == "COMMIT"
        assert await vote(store, "empty") == "READ_ONLY"

    run(work, tmp_path)


def test_a_lost_lock_is_refused_by_its_token(tmp_path: Path) -> None:
    async def work(store: Folder) -> None:
        def tokens(token: int, mode: str) -> dict[str, int]:
            return {"folder/k": FencingToken(token, mode)}

        assert await vote(store, "a", put("a", 1), fencing_tokens={"folder/k": 5}) == "COMMIT"
        late = await vote(store, "b", put("b", 1), fencing_tokens={"folder/k": 4})
        assert "the lock on 'folder/k' was lost: a later holder has the exclusive token 5" in late
        assert "was lost" in await vote(store, "c", put("c", 1), fencing_tokens=tokens(4, "shared"))
        for name, token in (("d", 7), ("e", 6)):
            shared = tokens(token, "shared")
            assert await vote(store, name, put(name, 1), fencing_tokens=shared) == "COMMIT"

    run(work, tmp_path)


# --- in a service ------------------------------------------------------------------------------


def test_in_a_service_a_row_and_a_key_change_as_one(tmp_path: Path) -> None:
    async def work() -> None:
        stores = {"rows": SqliteStore(tmp_path / "rows.db"), "folder": Folder(str(tmp_path))}
        create = "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY)"
        async with CoordinationService(stores, journal=tmp_path / "journal.db") as service:
            async with service.transaction() as tx:
                tx.add("rows", "execute", statement=create)
                tx.add("folder", "put", key="a", value={"n": 1})
            with pytest.raises(Exception, match=r"and not \{'n': 2\}"):
                async with service.transaction() as tx:
                    tx.add("rows", "execute", statement="INSERT INTO facts VALUES ('x')")
                    tx.add("folder", "check", key="a", value={"n": 2})
            saga = CoordinationType.SAGA_ORCHESTRATION
            async with service.transaction(coordination_type=saga) as tx:
                undo = {"type": "delete", "key": "b"}
                tx.add("folder", "put", key="b", value=2, compensation=undo)
            assert tx.result is not None and tx.result.success
            assert await stores["rows"].fetch("SELECT * FROM facts") == []  # type: ignore[attr-defined]
            assert await stores["folder"].get("a") == {"n": 1}  # type: ignore[attr-defined]

    asyncio.run(work())
    assert json.loads((tmp_path / "values" / "b").read_text()) == 2
