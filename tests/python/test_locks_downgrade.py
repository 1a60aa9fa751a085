"""A lock is changed for a weaker one on every manager: others that agree come in, nobody else does.

The rule itself is the lock table's (`src/protocol/lock_table`).
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from lock_backends import KINDS, Manager, fresh, make_manager, until
from unanimity import IDistributedLockManager, InvalidRequest, LockInfo, LockType

X, S, IX = LockType.EXCLUSIVE, LockType.SHARED, LockType.INTENT_EXCLUSIVE


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest) -> tuple[Manager, Manager]:
    """Two managers that see each other; twice the same one where that is one process's."""
    one = make_manager(request.param, request)
    return one, one if request.param == "local" else make_manager(request.param, request)


def test_readers_come_in_and_a_writer_waits_for_all_of_them(pair: tuple[Manager, Manager]) -> None:
    one, other = pair

    async def scenario() -> None:
        async with one, other:
            name = fresh()

            async def infos() -> list[LockInfo]:
                return await one.check_lock_status(name)

            async with one.lock(name, X, "ann") as held:
                before = (held.lock_id, held.fencing_token)
                reads = asyncio.ensure_future(other.acquire_lock(name, S, "bob", 20))
                await until(infos, ["held", "waiting"])
                assert await one.downgrade(held, S) is held
                assert (held.lock_type, held.requester_id) == (S, "ann")
                assert held.lock_id != before[0]
                assert held.fencing_token is not None and before[1] is not None
                assert held.fencing_token > before[1]
                read = await asyncio.wait_for(reads, 20)
                assert read.acquired and read.lock_id is not None
                writes = asyncio.ensure_future(other.acquire_lock(name, X, "cid", 20))
                await until(infos, ["held", "held", "waiting"])
                assert await one.release_lock(before[0], "ann") is False
            # The block has let go of the weaker one.
            await until(infos, ["held", "waiting"])
            assert await other.release_lock(read.lock_id, "bob") is True
            assert (await asyncio.wait_for(writes, 20)).acquired

    asyncio.run(scenario())


def test_a_writer_that_waits_does_not_come_in_between(pair: tuple[Manager, Manager]) -> None:
    one, other = pair

    async def scenario() -> None:
        async with one, other:
            for _ in range(20):
                name = fresh()
                granted = await one.acquire_lock(name, X, "ann")
                assert granted.lock_id is not None
                writes = asyncio.ensure_future(other.acquire_lock(name, X, "cid", 20))
                await until(partial(one.check_lock_status, name), ["held", "waiting"])
                weaker = await one.downgrade(granted.lock_id, "shared", "ann")
                assert weaker is not None and weaker.lock_type is S
                assert not writes.done()
                holder, waiter = await one.check_lock_status(name)
                assert (holder.requester_id, holder.lock_id) == ("ann", weaker.lock_id)
                assert (waiter.requester_id, waiter.state) == ("cid", "waiting")
                assert await one.release_lock(weaker.lock_id, "ann")
                written = await asyncio.wait_for(writes, 20)
                assert written.fencing_token is not None and weaker.fencing_token is not None
                assert written.fencing_token > weaker.fencing_token

    asyncio.run(scenario())


def test_the_lease_stays_and_what_is_not_held_or_not_weaker_is_left_alone(
    pair: tuple[Manager, Manager],
) -> None:
    one, _ = pair

    async def scenario() -> None:
        async with one:
            name = fresh()
            granted = await one.acquire_lock(name, X, "ann", lease_seconds=60)
            assert granted.lock_id is not None
            (before,) = await one.check_lock_status(name)
            assert await one.downgrade(granted.lock_id, S, "bob") is None
            for same_or_stronger in (X, "exclusive"):
                with pytest.raises(InvalidRequest, match="exclusive is not weaker"):
                    await one.downgrade(granted.lock_id, same_or_stronger, "ann")
            with pytest.raises(TypeError, match="requester_id"):
                await one.downgrade(granted.lock_id, S)
            assert await one.check_lock_status(name) == [before]
            weaker = await one.downgrade(granted.lock_id, IX, "ann")
            assert weaker is not None
            (after,) = await one.check_lock_status(name)
            assert after.lock_id == weaker.lock_id
            assert before.expires_at is not None and after.expires_at is not None
            # The server counts anew from when it hears of it.
            assert abs((after.expires_at - before.expires_at).total_seconds()) < 30
            with pytest.raises(InvalidRequest, match="shared is not weaker"):
                await one.downgrade(weaker.lock_id, S, "ann")
            assert await one.downgrade(granted.lock_id, S, "ann") is None
            assert await one.release_all("ann") == 1
            assert await one.downgrade(weaker, LockType.INTENT_SHARED) is None
            assert await one.check_lock_status(name) == []

    asyncio.run(scenario())


def test_a_downgrade_that_is_cancelled_leaves_the_one_lock_or_the_other(
    pair: tuple[Manager, Manager],
) -> None:
    one, _ = pair

    async def scenario() -> None:
        async with one:
            for turns in range(12):
                name = fresh()
                granted = await one.acquire_lock(name, X, "ann")
                assert granted.lock_id is not None
                changing = asyncio.ensure_future(one.downgrade(granted.lock_id, S, "ann"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                changing.cancel()
                await asyncio.gather(changing, return_exceptions=True)
                (info,) = await until(partial(one.check_lock_status, name), ["held"])
                assert info.requester_id == "ann"
                assert await one.release_all("ann") >= 1
                await until(partial(one.check_lock_status, name), [])

    asyncio.run(scenario())


def test_a_block_whose_downgrade_is_cancelled_leaves_nothing_behind(
    pair: tuple[Manager, Manager],
) -> None:
    one, _ = pair

    async def block(name: str, inside: asyncio.Event) -> None:
        async with one.lock(name, X, "ann") as held:
            inside.set()
            await one.downgrade(held, S)
            await asyncio.sleep(60)

    async def scenario() -> None:
        async with one:
            for turns in range(12):
                name, inside = fresh(), asyncio.Event()
                running = asyncio.ensure_future(block(name, inside))
                await inside.wait()
                for _ in range(turns):
                    await asyncio.sleep(0)
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
                assert await one.check_lock_status(name) == []

    asyncio.run(scenario())


def test_the_interface_of_others_lock_managers_has_no_downgrade() -> None:
    assert not hasattr(IDistributedLockManager, "downgrade")
