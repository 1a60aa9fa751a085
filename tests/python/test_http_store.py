"""`HttpStore` and `store_app`: a store in another process keeps its duties, and takes part when
that process is killed in the middle. Real processes, a real server on loopback.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broken_stores import HonestStore
from http_node import TOKEN, Node
from ledger import Ledger
from unanimity import (
    ConfigError,
    CoordinationRequest,
    CoordinationResult,
    CoordinationService,
    CoordinationType,
    OperationRequest,
    Permanent,
    PrepareRequest,
    StoreError,
)
from unanimity._stores import FencingToken
from unanimity.http_store import HttpStore, store_app
from unanimity.stores import MemoryStore
from unanimity.testing import StoreWords, check_store


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A process that serves a store, not started yet."""
    node = Node(tmp_path / "there.json")
    yield node
    node.kill()


def values(node: Node) -> dict[str, str]:
    """What the store there has on its disk."""
    return HonestStore(str(node.file)).values


def make_store(url: str) -> HttpStore:
    return HttpStore(url, token=TOKEN)


def test_it_keeps_every_duty_of_the_store_behind_it(node: Node) -> None:
    node.start()
    words = StoreWords(read=lambda _, key: values(node).get(key))
    report = check_store(make_store, node.url, words=words)
    left_out = [result.duty for result in report.duties if result.state != "kept"]
    assert left_out == ["fences"], report


# --- the process there is killed ---------------------------------------------------------------


def request(kind: CoordinationType, name: str) -> CoordinationRequest:
    operations: list[dict[str, Any]] = [
        {"store": store, "type": "put", "key": "k", "value": name} for store in ("here", "there")
    ]
    for operation in operations:
        operation["compensation"] = {"type": "delete", "key": "k"}
    return CoordinationRequest(name, kind, ["here", "there"], operations, 30, "session")


def coordinate(
    node: Node, folder: Path, kind: CoordinationType
) -> tuple[CoordinationResult, Any, int]:
    """Coordinate while the process there dies, start it again, and wait for the end."""

    async def work() -> tuple[CoordinationResult, Any, int]:
        here = MemoryStore("here")
        there = HttpStore(node.url, "there", token=TOKEN, timeout_seconds=1)
        timeouts = {"prepare_phase_timeout_seconds": 2, "commit_phase_timeout_seconds": 2}
        config = {"timeouts": timeouts}
        journal = folder / "journal.db"
        stores = {"here": here, "there": there}
        async with CoordinationService(stores, journal=journal, config=config) as service:
            asked = asyncio.ensure_future(service.coordinate_transaction(request(kind, "t")))
            code = await asyncio.to_thread(node.ended)
            await asyncio.to_thread(node.start)
            await asked
            return await service.wait_for("t", 60), await here.get("k"), code

    return asyncio.run(work())


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("method", ["prepare_transaction", "commit_transaction"])
def test_a_transaction_is_whole_when_the_process_there_is_killed(
    node: Node, tmp_path: Path, where: str, method: str
) -> None:
    node.start(f"{where}#{method}")
    result, here, code = coordinate(node, tmp_path, CoordinationType.TWO_PHASE_COMMIT)
    assert code == -signal.SIGKILL
    there = HonestStore(str(node.file))
    assert there.values.get("k") == here == ("t" if result.success else None)
    assert there.staged == {}
    if method == "commit_transaction":
        assert result.success


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_step_is_done_once_when_the_process_there_is_killed(
    node: Node, tmp_path: Path, where: str
) -> None:
    node.start(f"{where}#execute_operation")
    result, here, code = coordinate(node, tmp_path, CoordinationType.SAGA_ORCHESTRATION)
    assert (code, result.success, here) == (-signal.SIGKILL, True, "t")
    there = HonestStore(str(node.file))
    assert there.values == {"k": "t"}
    assert list(there.steps.values()) == [{"before": None}]


# --- unknown is told as unknown ----------------------------------------------------------------


def ask(store: HttpStore, what: str) -> Any:
    async def work() -> Any:
        step = OperationRequest("t", "t:0", {"type": "put", "key": "k", "value": 1}, 1, {}, 1)
        questions: dict[str, Any] = {
            "prepare": lambda: store.prepare_transaction(PrepareRequest("t", [], 1)),
            "commit": lambda: store.commit_transaction("t"),
            "abort": lambda: store.abort_transaction("t"),
            "list": store.list_prepared_transactions,
            "execute": lambda: store.execute_operation(step),
            "compensate": lambda: store.compensate_operation(step),
        }
        try:
            return await questions[what]()
        finally:
            await store.close()

    return asyncio.run(work())


ASKED = ("prepare", "commit", "abort", "list", "execute", "compensate")


@pytest.mark.parametrize("what", ASKED)
def test_where_nobody_answers_it_is_unknown(what: str) -> None:
    store = HttpStore("http://127.0.0.1:1/", timeout_seconds=0.2)
    with pytest.raises(StoreError, match=f"did {what} is not known: ConnectionRefused") as caught:
        ask(store, what)
    assert (caught.value.code, caught.value.retryable) == ("store.unknown", True)


def test_a_wrong_token_is_told_and_the_store_is_not_asked(node: Node) -> None:
    node.start()
    with pytest.raises(StoreError, match=r"HTTP 401: .*token is missing or wrong"):
        ask(HttpStore(node.url, token="guess"), "prepare")
    with pytest.raises(StoreError, match="HTTP 401"):
        ask(HttpStore(node.url), "commit")
    assert not node.file.exists()


def test_an_address_of_something_else_is_told(node: Node) -> None:
    for url in ("ftp://x", "nowhere", "http://", "http://x:y"):
        with pytest.raises(ConfigError, match="give http://host:port/path"):
            HttpStore(url)


# --- the application ---------------------------------------------------------------------------


async def post(
    app: Any, path: str, body: object, method: str = "POST", **headers: str
) -> tuple[int, Any]:
    """Ask the application as a server would."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": text, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": method, "path": path, "headers": pairs}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


PREPARE = {"transaction_id": "t", "operations": [], "timeout_seconds": 1, "fencing_tokens": {}}


def test_bad_questions_are_refused_before_the_store_is_asked() -> None:
    async def work() -> None:
        ledger = Ledger("left")
        app = store_app(ledger)
        assert (await post(app, "/prepare", PREPARE, "GET"))[0] == 405
        assert (await post(app, "/jump", {}))[0] == 404
        assert (await post(app, "/prepare", b"{"))[0] == 400
        assert (await post(app, "/prepare", []))[0] == 400
        assert (await post(app, "/prepare", {"transaction_id": "t"}))[0] == 400
        assert (await post(app, "/prepare", b" " * (17 << 20)))[0] == 413
        assert (await post(app, "/execute", {}))[0] == 501
        assert ledger.calls == []
        status, answer = await post(app, "/deep/down/prepare", PREPARE)
        assert (status, answer["vote"]) == (200, "COMMIT")

    asyncio.run(work())


def test_the_same_question_twice_at_once_is_asked_of_the_store_once() -> None:
    async def work() -> None:
        ledger = Ledger("left")
        ledger.gate = asyncio.Event()
        app = store_app(ledger)
        both = [asyncio.ensure_future(post(app, "/prepare", PREPARE)) for _ in range(2)]
        while not ledger.calls:
            await asyncio.sleep(0)
        # One who goes away takes nothing from the other.
        both[0].cancel()
        ledger.gate.set()
        assert (await both[1])[1]["vote"] == "COMMIT"
        assert ledger.asked("prepare") == 1

    asyncio.run(work())


def test_what_the_store_raises_says_nothing_of_what_was_done() -> None:
    class Raising(Ledger):
        def execute_operation(self, request: OperationRequest) -> Any:
            raise Permanent("there is no such guest")

    async def work() -> None:
        store = Raising("left")
        store.answer = RuntimeError("the disk is on fire")
        app = store_app(store)
        status, answer = await post(app, "/prepare", PREPARE)
        assert (status, answer["error"]) == (500, "RuntimeError: the disk is on fire")
        step = OperationRequest("t", "t:0", {"type": "book"}, 1, {}, 1)
        status, answer = await post(app, "/execute", vars(step))
        assert (status, answer["status"], answer["retryable"]) == (200, "FAILED", False)
        assert answer["error_message"] == "there is no such guest"

    asyncio.run(work())


def test_fencing_tokens_arrive_with_the_type_of_their_lock() -> None:
    async def work() -> None:
        ledger = Ledger("left")
        body = {**PREPARE, "fencing_tokens": {"left/k": [7, "shared"]}}
        await post(store_app(ledger), "/prepare", body)
        (token,) = ledger.requests[0].fencing_tokens.values()
        assert isinstance(token, FencingToken)
        assert (token, token.lock_type) == (7, "shared")

    asyncio.run(work())


def test_an_object_without_any_method_is_no_store() -> None:
    with pytest.raises(ConfigError, match="none of the methods of a store"):
        store_app(object())
