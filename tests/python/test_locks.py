"""The lock managers through the public face: every method on every kind of manager."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any

import pytest

from lock_backends import KINDS, Manager, fresh, make_manager, until
from unanimity import (
    ActiveLock,
    Deadlock,
    DeadlockDetected,
    InvalidRequest,
    LockError,
    LockInfo,
    LockLost,
    LockTimeout,
    LockType,
)

S, X = LockType.SHARED, LockType.EXCLUSIVE
IS, IX = LockType.INTENT_SHARED, LockType.INTENT_EXCLUSIVE
# Gray's matrix, as the contract has it.
COMPATIBLE = {(IS, IS), (IS, IX), (IS, S), (IX, IS), (IX, IX), (S, IS), (S, S)}

Scenario = Callable[[Manager], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest) -> Run:
    """Run a scenario with a manager of each kind, and see that nothing is left of it."""

    def run_scenario(scenario: Scenario, **options: Any) -> None:
        async def whole() -> None:
            async with make_manager(request.param, request, **options) as manager:
                await scenario(manager)
                # What this test's requesters left would be seen in the list of all.
                assert await manager.list_locks() == []

        asyncio.run(whole())

    return run_scenario


def test_a_free_lock_is_granted_and_its_release_is_acknowledged_once(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        name = fresh()
        before = datetime.now(timezone.utc) - timedelta(seconds=5)
        granted = await manager.acquire_lock(name, X, "ann")
        assert granted.acquired and granted.error_message is None and granted.lock_id
        assert granted.lock_id.startswith(f"{name}:exclusive:")
        assert granted.acquired_at is not None
        assert before < granted.acquired_at < datetime.now(timezone.utc) + timedelta(seconds=5)
        assert granted.fencing_token is not None
        (info,) = await manager.check_lock_status(name)
        assert info == LockInfo(
            name,
            X,
            "ann",
            "held",
            granted.lock_id,
            0,
            info.since,
            info.expires_at,
            granted.fencing_token,
        )
        # The one is the holder's clock, the other the server's.
        assert abs(info.since - granted.acquired_at) < timedelta(seconds=5)
        assert await manager.release_lock(granted.lock_id, "bob") is False
        assert await manager.release_lock("no such lock", "ann") is False
        assert await manager.release_lock(granted.lock_id, "ann") is True
        assert await manager.release_lock(granted.lock_id, "ann") is False
        assert await manager.check_lock_status(name) == []

    run(scenario)


@pytest.mark.parametrize("second", LockType)
@pytest.mark.parametrize("first", LockType)
def test_every_pair_of_modes_agrees_with_grays_matrix(
    run: Run, first: LockType, second: LockType
) -> None:
    async def scenario(manager: Manager) -> None:
        name = fresh()
        held = await manager.acquire_lock(name, first, "ann")
        other = await manager.acquire_lock(name, second, "bob", 0)
        assert other.acquired is ((first, second) in COMPATIBLE)
        if not other.acquired:
            assert "ann" in (other.error_message or "")
        # One requester's own never conflict.
        own = await manager.acquire_lock(name, second, "ann", 0)
        blocked = other.acquired and (second, second) not in COMPATIBLE
        assert own.acquired is not blocked or own.acquired
        assert await manager.release_all("ann") == (2 if own.acquired else 1)
        assert await manager.release_all("bob") == (1 if other.acquired else 0)
        assert held.acquired

    run(scenario)


def test_tokens_grow_with_every_grant(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        name = fresh()
        tokens = []
        for _ in range(5):
            async with manager.lock(name, X, "ann") as held:
                assert held.fencing_token is not None
                tokens.append(held.fencing_token)
        assert tokens == sorted(set(tokens))

    run(scenario)


def test_those_who_wait_are_listed_and_served_in_their_order(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        name = fresh()
        order: list[str] = []
        first = await manager.acquire_lock(name, X, "holder")

        async def wait(requester: str) -> None:
            async with manager.lock(name, X, requester):
                order.append(requester)

        tasks = []
        for number in range(16):
            tasks.append(asyncio.create_task(wait(f"w{number}")))
            look = await until(
                lambda: manager.check_lock_status(name), ["held", *["waiting"] * (number + 1)]
            )
            assert look[-1].requester_id == f"w{number}"
        assert [info.position for info in look[1:]] == list(range(16))
        assert all(info.lock_id is None and info.fencing_token is None for info in look[1:])
        assert (await manager.wait_for_graph())["w0"] == ["holder"]
        assert first.lock_id is not None and await manager.release_lock(first.lock_id, "holder")
        await asyncio.gather(*tasks)
        assert order == [f"w{number}" for number in range(16)]

    run(scenario)


def test_shared_neighbours_are_granted_together(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        name = fresh()
        inside = asyncio.Barrier(3) if hasattr(asyncio, "Barrier") else None

        async def read(requester: str) -> None:
            async with manager.lock(name, S, requester):
                if inside is not None:
                    await inside.wait()

        async with manager.lock(name, X, "writer"):
            readers = [asyncio.create_task(read(f"r{number}")) for number in range(3)]
            await until(lambda: manager.check_lock_status(name), ["held", *["waiting"] * 3])
        await asyncio.wait_for(asyncio.gather(*readers), 20)

    run(scenario)


def test_a_wait_ends_with_its_time_and_names_who_was_in_the_way(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        name = fresh()
        async with manager.lock(name, X, "the-holder"):
            refused = await manager.acquire_lock(name, S, "bob", 0.05)
            assert not refused.acquired and refused.lock_id is None
            assert refused.deadlock_cycle is None
            for word in (name, "shared", "the-holder"):
                assert word in (refused.error_message or "")
            with pytest.raises(LockTimeout, match="the-holder") as caught:
                async with manager.lock(name, S, "bob", 0.05):
                    raise AssertionError("it is not free")
            assert caught.value.code == "lock.timeout" and caught.value.retryable
            assert [info.state for info in await manager.check_lock_status(name)] == ["held"]

    run(scenario)


def test_max_wait_time_caps_every_wait(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        name = fresh()
        async with manager.lock(name, X, "ann"):
            for timeout in (300, None, float("inf")):
                asked = manager.acquire_lock(name, X, "bob", timeout)
                assert not (await asyncio.wait_for(asked, 20)).acquired

    run(scenario, max_wait_time_seconds=0.05)


def test_a_lock_can_be_upgraded_by_its_only_holder(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        name = fresh()
        async with manager.lock(name, S, "ann"), manager.lock(name, X, "ann", 5):
            assert not (await manager.acquire_lock(name, S, "bob", 0)).acquired

    run(scenario)


def test_a_deadlock_fails_the_youngest_and_the_other_goes_on(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        one, two = fresh(), fresh()
        async with manager.lock(one, X, "old"):
            await asyncio.sleep(0.01)
            inner = await manager.acquire_lock(two, X, "young")
            waits = asyncio.create_task(manager.acquire_lock(two, X, "old", 20))
            await until(lambda: manager.check_lock_status(two), ["held", "waiting"])
            refused = await manager.acquire_lock(one, X, "young", 20)
            assert not refused.acquired and "deadlock" in (refused.error_message or "")
            assert refused.deadlock_cycle is not None
            assert sorted(refused.deadlock_cycle) == ["old", "young"]
            with pytest.raises(DeadlockDetected) as caught:
                async with manager.lock(one, X, "young", 20):
                    raise AssertionError("it is a deadlock")
            assert sorted(caught.value.deadlock_cycle or []) == ["old", "young"]
            assert caught.value.code == "lock.deadlock" and caught.value.retryable
            last = (await manager.deadlocks())[0]
            assert isinstance(last, Deadlock) and last.victim_transaction == "young"
            assert last.resource_id == one and sorted(last.deadlock_cycle) == ["old", "young"]
            assert last.detected_at.tzinfo is not None
            assert inner.lock_id is not None and await manager.release_lock(inner.lock_id, "young")
            assert (await waits).acquired
        assert await manager.release_all("old") == 1

    run(scenario)


def test_several_locks_are_all_or_none_whatever_their_order(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        names = sorted(fresh() for _ in range(3))
        wishes: list[tuple[str, LockType | str]] = [
            (names[2], X),
            (names[0], S),
            (names[1], "intent_exclusive"),
        ]
        held = await manager.acquire_many(wishes, "ann")
        assert [(lock.resource_id, lock.lock_type) for lock in held] == [
            (names[2], X),
            (names[0], S),
            (names[1], IX),
        ]
        assert all(lock.requester_id == "ann" and lock.fencing_token is not None for lock in held)
        with pytest.raises(LockTimeout):
            await manager.acquire_many([(names[2], X), (fresh(), X)], "bob", 0.05)
        assert await manager.release_all("bob") == 0
        assert await manager.acquire_many([], "bob") == []
        assert await manager.release_all("ann") == 3

        async def take(requester: str, backwards: bool) -> None:
            for _ in range(10):
                order = [(name, X) for name in (reversed(names) if backwards else names)]
                await manager.acquire_many(order, requester, 20)
                await manager.release_all(requester)

        await asyncio.gather(take("ann", False), take("bob", True))
        assert await manager.deadlocks() == []

    run(scenario)


def test_release_all_lets_go_of_locks_and_of_waits(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        mine, yours = fresh(), fresh()
        async with manager.lock(yours, X, "bob"):
            await manager.acquire_lock(mine, X, "ann")
            waits = asyncio.create_task(manager.acquire_lock(yours, X, "ann", 20))
            await until(lambda: manager.check_lock_status(yours), ["held", "waiting"])
            assert await manager.release_all("ann") == 1
            with pytest.raises(LockError, match="given up"):
                await waits
            assert await manager.check_lock_status(mine) == []

    run(scenario)


def test_a_lease_ends_is_renewed_and_its_end_is_told(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        name = fresh()
        told: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
        calls: list[str] = []

        async def lost(lock_id: str, requester_id: str, reason: str) -> None:
            told.put_nowait((lock_id, requester_id, reason))

        def breaks(lock_id: str, requester_id: str, reason: str) -> None:
            calls.append(lock_id)
            raise ZeroDivisionError("a listener")

        manager.on_lost(breaks)
        manager.on_lost(lost)
        granted = await manager.acquire_lock(name, X, "ann", lease_seconds=60)
        assert granted.lock_id is not None
        (info,) = await manager.check_lock_status(name)
        assert info.expires_at is not None
        with pytest.raises(InvalidRequest, match="lease_seconds"):
            await manager.renew(granted.lock_id)
        assert await manager.renew(granted.lock_id, 0.05) is True
        lock_id, requester, reason = await asyncio.wait_for(told.get(), 20)
        assert (lock_id, requester) == (granted.lock_id, "ann") and reason
        assert calls == [granted.lock_id]
        assert await manager.renew(granted.lock_id, 60) is False
        assert await manager.release_lock(granted.lock_id, "ann") is False
        with pytest.raises(LockLost, match=name) as caught:
            async with manager.lock(name, X, "bob", lease_seconds=0.05):
                await asyncio.wait_for(told.get(), 20)
        assert (caught.value.lock_id or "").startswith(f"{name}:exclusive:")

    run(scenario)


def test_renewing_a_lock_without_a_lease_says_whether_it_is_held(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        async with manager.lock(fresh(), X, "ann") as held:
            assert await manager.renew(held.lock_id) is True
        assert await manager.renew(held.lock_id) is False
        assert await manager.renew("nothing") is False

    run(scenario)


class Word(Enum):
    """A lock type of somebody's own."""

    EXCLUSIVE = "exclusive"


def test_lock_types_are_taken_by_their_value(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        for kind in ("exclusive", Word.EXCLUSIVE, X):
            async with manager.lock(fresh(), kind, "ann") as held:  # type: ignore[arg-type]
                assert isinstance(held, ActiveLock) and held.lock_type is X

    run(scenario)


@pytest.mark.parametrize(
    "name", ["a/b/c", "a b:c", "ünï", "..", "/", "%2F", "x" * 256, "'; --", "a\nb", "\N{ROCKET}"]
)
def test_any_name_of_up_to_256_characters_works(run: Run, name: str) -> None:
    async def scenario(manager: Manager) -> None:
        async with manager.lock(name, X, "ann/1 \N{ROCKET}") as held:
            assert held.resource_id == name and held.requester_id == "ann/1 \N{ROCKET}"
            (info,) = await manager.check_lock_status(name)
            assert (info.resource_id, info.lock_id) == (name, held.lock_id)
            assert not (await manager.acquire_lock(name, X, "bob", 0)).acquired

    run(scenario)


BAD: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    (("", X, "ann"), InvalidRequest, "resource_id cannot be used: it is empty"),
    (("x" * 257, X, "ann"), InvalidRequest, "resource_id.*257 characters; 256 are allowed"),
    (("a\0b", X, "ann"), InvalidRequest, "resource_id.*NUL"),
    (("a", X, ""), InvalidRequest, "requester_id cannot be used: it is empty"),
    (("a", X, "x" * 129), InvalidRequest, "requester_id.*129 characters; 128 are allowed"),
    ((7, X, "ann"), TypeError, "resource_id is a int; give a str"),
    (("a", X, None), TypeError, "requester_id is a NoneType; give a str"),
    (("a", "write", "ann"), InvalidRequest, "lock_type is 'write'; give a LockType"),
    (("a", 3, "ann"), TypeError, "lock_type is 3; give a LockType"),
    (("a", X, "ann", -1), InvalidRequest, "timeout_seconds is -1"),
    (("a", X, "ann", float("nan")), InvalidRequest, "timeout_seconds is nan"),
    (("a", X, "ann", "soon"), TypeError, "timeout_seconds is 'soon'"),
    (("a", X, "ann", True), TypeError, "timeout_seconds is True"),
]


@pytest.mark.parametrize(("arguments", "kind", "words"), BAD)
def test_what_cannot_be_used_is_refused_by_name(
    run: Run, arguments: tuple[Any, ...], kind: type[Exception], words: str
) -> None:
    async def scenario(manager: Manager) -> None:
        with pytest.raises(kind, match=words):
            await manager.acquire_lock(*arguments)
        with pytest.raises(kind, match=words):
            async with manager.lock(*arguments):
                raise AssertionError("it was refused")

    run(scenario)


def test_other_arguments_are_refused_by_name_too(run: Run) -> None:
    async def scenario(manager: Manager) -> None:
        for lease in (0, -1.0, float("nan")):
            with pytest.raises(InvalidRequest, match="lease_seconds"):
                await manager.acquire_lock("a", X, "ann", lease_seconds=lease)
        with pytest.raises(TypeError, match="lock_id is a int"):
            await manager.release_lock(3, "ann")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="resource_id is None"):
            await manager.check_lock_status(None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="give something to call"):
            manager.on_lost("print")  # type: ignore[arg-type]

    run(scenario)


def test_closing_ends_waits_and_a_closed_manager_says_so(request: pytest.FixtureRequest) -> None:
    async def scenario() -> None:
        for kind in KINDS:
            name = fresh()
            manager = make_manager(kind, request)
            await manager.acquire_lock(name, X, "ann")
            waits = asyncio.create_task(manager.acquire_lock(name, X, "bob", 20))
            await until(lambda m=manager, n=name: m.check_lock_status(n), ["held", "waiting"])  # type: ignore[misc]
            await manager.close()
            await manager.close()
            with pytest.raises(LockError, match="closed") as caught:
                await waits
            assert caught.value.code == "lock.closed"
            with pytest.raises(LockError, match="closed"):
                await manager.acquire_lock(name, X, "ann")
            assert "closed" in repr(manager)

    asyncio.run(scenario())
