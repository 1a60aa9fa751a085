"""The Redis store through the public face, on real servers: with others, killed, and badly set."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger, request
from redis_server import RedisServer
from unanimity import (
    ConfigError,
    CoordinationService,
    CoordinationType,
    Outcome,
    PrepareRequest,
    StoreError,
    UnanimityError,
)
from unanimity.stores import FileStore, RedisStore

Make = Callable[..., CoordinationService]


def put(key: str, value: Any, store: str = "cache", **more: Any) -> dict[str, Any]:
    """Make an operation."""
    return {"store": store, "type": "put", "key": key, "value": value, **more}


def test_a_key_and_a_file_change_together_or_not_at_all(
    make_service: Make, redis: RedisServer, tmp_path: Path
) -> None:
    url = redis.fresh_url()

    async def scenario() -> None:
        cache = RedisStore(url, "cache", prefix="app:")
        papers = FileStore(tmp_path / "papers", "papers")
        async with make_service({"cache": cache, "papers": papers}) as service:
            paper = {"store": "papers", "type": "put", "key": "1", "value": "ann"}
            first = request(
                "t1", "cache", "papers", operations=[put("a", "ann", ttl_seconds=900), paper]
            )
            assert (await service.coordinate_transaction(first)).outcome is Outcome.COMMITTED
            assert await cache.get("a") == b"ann"
            assert await cache.get_text("a") == "ann"
            assert await cache.get("missing") is None
            check = {"store": "cache", "type": "check", "key": "a", "value": "bob"}
            again = request(
                "t2", "cache", "papers", operations=[{**paper, "key": "2"}, check, put("a", 1)]
            )
            refused = await service.coordinate_transaction(again)
            assert refused.outcome is Outcome.ABORTED
            assert "cache" in str(refused.error_message)
            assert "it has another value" in str(refused.error_message)
            assert await papers.get("2") is None
            await service.wait_for("t2", timeout=10)
            assert await cache.list_prepared_transactions() == []
        await cache.close()

    asyncio.run(scenario())
    assert redis.values("app:*", url) == {"app:a": "ann"}
    assert 0 < int(redis.ask("TTL", "app:a", url=url)[0]) <= 900


def test_a_saga_is_undone_and_an_eventual_coordination_is_done_once(
    make_service: Make, redis: RedisServer
) -> None:
    url = redis.fresh_url()

    async def scenario() -> None:
        cache = RedisStore(url, "cache")
        async with make_service({"cache": cache, "left": Ledger("left")}) as service:
            undo = {"type": "delete", "key": "a"}
            operations = [
                put("a", 1, compensation=undo, operation_id="first"),
                {"store": "cache", "type": "check", "key": "a", "value": 2, "compensation": None},
            ]
            saga = request("s1", "cache", operations=operations)
            saga.coordination_type = CoordinationType.SAGA_ORCHESTRATION
            saga.consistency_level = "session"
            assert (await service.coordinate_transaction(saga)).outcome is Outcome.ABORTED
            assert await cache.get("a") is None
            later = request("e1", "cache", operations=[put("b", 1), put("c", 2)])
            later.coordination_type = CoordinationType.EVENTUAL_CONSISTENCY
            later.consistency_level = "session"
            assert (await service.coordinate_transaction(later)).outcome is Outcome.COMMITTED
            assert (await cache.get("b"), await cache.get("c")) == (b"1", b"2")
        await cache.close()

    asyncio.run(scenario())


def test_what_the_server_promises_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def level(server: RedisServer, **more: Any) -> Any:
        store = RedisStore(server.url(), **more)
        found = await store.durability()
        await store.close()
        return found

    with RedisServer() as server:
        found = asyncio.run(level(server))
        assert (found.level, found.is_durable) == ("always", True)
    with RedisServer("--appendfsync", "everysec") as server, caplog.at_level(logging.WARNING):
        found = asyncio.run(level(server, waits_for_disk=False))
        assert (found.level, found.is_durable) == ("every_second", False)
        assert "appendfsync" in found.explanation


def test_a_server_that_cannot_keep_a_promise_is_refused(make_service: Make) -> None:
    async def start(server: RedisServer) -> None:
        async with make_service({"cache": RedisStore(server.url(), "cache")}):
            raise AssertionError("it cannot start")

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for settings, part in [
        (("--cluster-enabled", "yes", "--cluster-port", port), "Redis Cluster"),
        (("--maxmemory-policy", "allkeys-lru"), "noeviction"),
        (("--replicaof", "127.0.0.1", "1"), "the primary"),
    ]:
        with RedisServer(*settings) as server:
            with pytest.raises(UnanimityError, match=part) as caught:
                asyncio.run(start(server))
            assert "cache" in str(caught.value)


def test_bad_arguments_are_refused_at_once_and_quote_no_password() -> None:
    makes: list[Callable[[], RedisStore]] = [
        lambda: RedisStore(""),
        lambda: RedisStore(5),  # type: ignore[arg-type]
        lambda: RedisStore("http://u:secret@h"),
        lambda: RedisStore("redis://u:secret@h:port"),
        lambda: RedisStore("redis://h", ""),
        lambda: RedisStore("redis://h", prefix=None),  # type: ignore[arg-type]
    ]
    for make in makes:
        with pytest.raises(ConfigError) as caught:
            make()
        assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named(redis: RedisServer) -> None:
    async def scenario() -> None:
        with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/0") as caught:
            await RedisStore("redis://127.0.0.1:1", "cache").get("a")
        assert caught.value.store == "cache"
        url = redis.fresh_url()
        redis.ask("RPUSH", "list", "x", url=url)
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await RedisStore(url).get("list")

    asyncio.run(scenario())


def test_a_store_serves_without_a_service(redis: RedisServer) -> None:
    url = redis.fresh_url()

    async def scenario() -> None:
        store = RedisStore(url)
        ask = PrepareRequest("t", [{"type": "put", "key": "a", "value": b"\x00\xff"}], 30)
        assert (await store.prepare_transaction(ask)).vote == "COMMIT"
        other = PrepareRequest("u", [{"type": "delete", "key": "a"}], 30)
        refused = await store.prepare_transaction(other)
        assert (refused.vote, "'t' holds it" in str(refused.reason)) == ("ABORT", True)
        assert await store.list_prepared_transactions() == ["t"]
        assert (await store.commit_transaction("t")).status == "SUCCESS"
        assert (await store.abort_transaction("u")).status == "SUCCESS"
        assert await store.get("a") == b"\x00\xff"
        await store.close()

    asyncio.run(scenario())


def test_a_service_that_died_with_work_prepared_is_recovered(
    make_service: Make, redis: RedisServer
) -> None:
    url = redis.fresh_url()

    async def leave() -> None:
        # Under the service's own journal, so it is its to end: nobody decided, so it is aborted.
        store = RedisStore(url, "cache")
        async with make_service({"cache": store}) as service:
            await service.coordinate_transaction(request("t0", "cache", operations=[put("z", 1)]))
            ask = PrepareRequest("left", [{"type": "put", "key": "a", "value": 1}], 30)
            assert (await store.prepare_transaction(ask)).vote == "COMMIT"
        await store.close()

    async def recover() -> None:
        store = RedisStore(url, "cache")
        async with make_service({"cache": store}) as service:
            while await store.list_prepared_transactions():
                await service.recover()
            result = await service.coordinate_transaction(
                request("t1", "cache", operations=[put("a", 2)])
            )
            assert result.outcome is Outcome.COMMITTED
        await store.close()

    asyncio.run(leave())
    asyncio.run(recover())
    assert redis.values("[az]", url) == {"a": "2", "z": "1"}


def test_under_kills_of_the_server_both_stores_say_the_same(
    make_service: Make, tmp_path: Path
) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def lane(service: CoordinationService, name: str, told: dict[str, Outcome]) -> None:
        number = 0
        while not told.get("enough"):
            key = f"{name}-{number}"
            number += 1
            ask = request(
                key,
                "cache",
                "papers",
                operations=[put(key, key), put(key, key, "papers")],
                timeout_seconds=60,
            )
            told[key] = (await service.coordinate_transaction(ask)).outcome

    async def scenario(server: RedisServer) -> dict[str, Outcome]:
        told: dict[str, Any] = {}
        papers = FileStore(tmp_path / "papers", "papers")
        cache = RedisStore(server.url(), "cache", prefix="fact:")
        async with make_service({"cache": cache, "papers": papers}) as service:
            lanes = [asyncio.create_task(lane(service, f"l{n}", told)) for n in range(4)]
            for _ in range(6):
                enough = len(told) + chance.randrange(1, 40)
                while len(told) < enough:
                    await asyncio.sleep(0)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            told["enough"] = True
            await asyncio.gather(*lanes)
            del told["enough"]
            while await service.list_active_coordinations():
                await asyncio.sleep(0.01)
            assert await cache.list_prepared_transactions() == []
        await cache.close()
        return told

    with RedisServer() as server:
        told = asyncio.run(scenario(server))
        shown = {key.removeprefix("fact:") for key in server.values("fact:*")}
        held = server.ask("HLEN", "unanimity:held")
    assert shown == {path.name for path in (tmp_path / "papers").iterdir() if path.is_file()}
    assert {key for key, outcome in told.items() if outcome is Outcome.COMMITTED} <= shown
    assert not {key for key, outcome in told.items() if outcome is Outcome.ABORTED} & shown
    assert held == ["0"]


def test_over_tls_the_servers_certificate_is_checked(tmp_path: Path) -> None:
    settings = "[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\n"
    settings += "subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n"
    (tmp_path / "settings").write_text(settings)
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    make += " -config settings -keyout key.pem -out cert.pem"
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    tls = ("--tls-port", str(port), "--tls-key-file", key, "--tls-cert-file", cert)
    program = (
        "import asyncio\n"
        "from unanimity.stores import RedisStore\n"
        f"print(asyncio.run(RedisStore('rediss://localhost:{port}').get('a')))\n"
    )

    def run(trusted: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SSL_CERT_FILE": trusted}
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    with RedisServer(*tls, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no") as server:
        server.ask("SET", "a", "x")
        done = run(cert)
        assert (done.stdout, done.returncode) == ("b'x'\n", 0), done.stderr
        subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
        refused = run(cert)
        assert refused.returncode != 0
        assert "certificate" in refused.stderr.lower()
