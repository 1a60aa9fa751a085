"""Strong coordinations: what they keep apart, what stands in their way, and whose locks serve.

The stores here have no isolation of their own: they read when they prepare and write when they
commit, so that only locks can keep two transfers over one account from losing money.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest

from ledger import Ledger, request
from unanimity import (
    AbortResult,
    CommitResult,
    CoordinationResult,
    CoordinationService,
    IDistributedLockManager,
    LocalLockManager,
    LockAcquisitionResult,
    LockInfo,
    LockType,
    Outcome,
    PrepareRequest,
    PrepareResult,
)

Make = Callable[..., CoordinationService]
OPENING = 1_000
ACCOUNTS = ["a", "b", "c"]
TRANSFERS = 200
COMPATIBLE = {
    (LockType.INTENT_SHARED, LockType.INTENT_SHARED),
    (LockType.INTENT_SHARED, LockType.INTENT_EXCLUSIVE),
    (LockType.INTENT_SHARED, LockType.SHARED),
    (LockType.INTENT_EXCLUSIVE, LockType.INTENT_SHARED),
    (LockType.INTENT_EXCLUSIVE, LockType.INTENT_EXCLUSIVE),
    (LockType.SHARED, LockType.INTENT_SHARED),
    (LockType.SHARED, LockType.SHARED),
}


class Accounts:
    """Balances in a dict; a prepared balance is a number, not a change."""

    def __init__(self, name: str) -> None:
        self.store_name = name
        self.balances = dict.fromkeys(ACCOUNTS, OPENING)
        self.staged: dict[str, dict[str, int]] = {}

    async def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        read = {each["key"]: self.balances[each["key"]] for each in request.operations}
        await asyncio.sleep(0)
        self.staged[request.transaction_id] = {
            each["key"]: read[each["key"]] + each["amount"] for each in request.operations
        }
        return PrepareResult(self.store_name, "COMMIT")

    async def commit_transaction(self, transaction_id: str) -> CommitResult:
        self.balances.update(self.staged.pop(transaction_id, {}))
        return CommitResult(self.store_name, "SUCCESS")

    async def abort_transaction(self, transaction_id: str) -> AbortResult:
        self.staged.pop(transaction_id, None)
        return AbortResult(self.store_name, "SUCCESS")


class Doorman(IDistributedLockManager):
    """A lock manager as a user may write it: who is compatible with all holders goes in."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, tuple[LockType, str]]] = defaultdict(dict)
        self.granted = 0
        self.changed = asyncio.Condition()

    def _is_free(self, resource_id: str, lock_type: LockType, requester_id: str) -> bool:
        return all(
            holder == requester_id or (lock_type, held) in COMPATIBLE
            for held, holder in self.held[resource_id].values()
        )

    async def acquire_lock(
        self,
        resource_id: str,
        lock_type: LockType,
        requester_id: str,
        timeout_seconds: int = 300,
    ) -> LockAcquisitionResult:
        async with self.changed:
            free = self.changed.wait_for(
                lambda: self._is_free(resource_id, lock_type, requester_id)
            )
            try:
                await asyncio.wait_for(free, timeout_seconds)
            except asyncio.TimeoutError:
                return LockAcquisitionResult.failed(f"'{resource_id}' is taken")
            self.granted += 1
            lock_id = f"{resource_id}:{lock_type.value}:{self.granted}"
            self.held[resource_id][lock_id] = (lock_type, requester_id)
        return LockAcquisitionResult.success(lock_id, datetime.now(timezone.utc), self.granted)

    async def release_lock(self, lock_id: str, requester_id: str) -> bool:
        async with self.changed:
            held = self.held[lock_id.rsplit(":", 2)[0]].pop(lock_id, None)
            self.changed.notify_all()
        return held is not None

    async def check_lock_status(self, resource_id: str) -> list[LockInfo]:
        return []


def transfer(number: int, consistency_level: str) -> Any:
    """Move one unit from an account of the left bank to one of the right bank."""
    accounts = ACCOUNTS[number % 3], ACCOUNTS[number // 3 % 3]
    operations = [
        {"store": "left", "type": "add", "key": accounts[0], "amount": -1},
        {"store": "right", "type": "add", "key": accounts[1], "amount": 1},
    ]
    return request(
        f"t{number}", operations=operations, consistency_level=consistency_level, timeout_seconds=60
    )


async def run_transfers(
    make_service: Make, consistency_level: str, lock_manager: Any = None
) -> tuple[int, int]:
    """Answer how many were committed, and how much money is missing or too much."""
    banks = {name: Accounts(name) for name in ("left", "right")}
    async with make_service(banks, lock_manager=lock_manager) as service:
        results: list[CoordinationResult] = await asyncio.gather(
            *(
                service.coordinate_transaction(transfer(number, consistency_level))
                for number in range(TRANSFERS)
            )
        )
    committed = sum(result.success for result in results)
    moved = [abs(sum(bank.balances.values()) - len(ACCOUNTS) * OPENING) for bank in banks.values()]
    return committed, max(abs(each - committed) for each in moved)


def test_strong_transfers_on_shared_keys_keep_the_total(make_service: Make) -> None:
    assert asyncio.run(run_transfers(make_service, "strong")) == (TRANSFERS, 0)


def test_the_same_transfers_without_locks_lose_money(make_service: Make) -> None:
    committed, lost = asyncio.run(run_transfers(make_service, "session"))
    assert committed == TRANSFERS
    assert lost > 0, "the test above could not fail"


def test_a_lock_manager_of_the_users_own_keeps_the_total_too(make_service: Make) -> None:
    async def scenario() -> None:
        doorman = Doorman()
        assert await run_transfers(make_service, "strong", doorman) == (TRANSFERS, 0)
        assert doorman.granted == 4 * TRANSFERS
        assert not any(doorman.held.values()), "a lock outlived its coordination"

    asyncio.run(scenario())


def test_a_lock_held_by_hand_refuses_naming_it_and_the_same_id_runs_later(
    make_service: Make, ledgers: dict[str, Ledger]
) -> None:
    async def scenario() -> None:
        locks = LocalLockManager()
        async with locks, make_service(ledgers, lock_manager=locks) as service:
            wanted = request("c1", consistency_level="strong", timeout_seconds=1.2)
            async with locks.lock("left/k", LockType.SHARED, "reader"):
                result = await service.coordinate_transaction(wanted)
                assert (result.outcome, result.code) == (
                    Outcome.ABORTED,
                    "transaction.aborted.lock_timeout",
                )
                assert "'left/k'" in str(result.error_message)
                assert "reader" in str(result.error_message)
                assert ledgers["left"].calls == []
                assert await service.get_coordination_status("c1") is None
            assert (await service.coordinate_transaction(wanted)).success
            assert await locks.check_lock_status("left/k") == []

    asyncio.run(scenario())


def test_a_coordination_in_a_deadlock_with_a_lock_held_by_hand_is_the_victim_and_says_so(
    make_service: Make, ledgers: dict[str, Ledger]
) -> None:
    async def scenario() -> None:
        locks = LocalLockManager()
        async with locks, make_service(ledgers, lock_manager=locks) as service:
            right = await locks.acquire_lock("right/k", LockType.EXCLUSIVE, "hand")
            assert right.lock_id is not None
            wanted = request("c1", consistency_level="strong")
            waiting = asyncio.create_task(service.coordinate_transaction(wanted))
            while not await locks.wait_for_graph():
                await asyncio.sleep(0)
            left = await locks.acquire_lock("left/k", LockType.EXCLUSIVE, "hand", 10)
            assert left.acquired, left
            result = await waiting
            assert (result.outcome, result.code) == (
                Outcome.ABORTED,
                "transaction.aborted.deadlock",
            )
            assert "'c1'" in str(result.error_message)
            assert "'hand'" in str(result.error_message)
            assert ledgers["right"].calls == []
            assert await locks.release_all("hand") == 2
            assert (await service.coordinate_transaction(wanted)).success

    asyncio.run(scenario())


@pytest.mark.parametrize("level", ["session", "eventual"])
def test_without_strong_no_lock_is_taken(
    make_service: Make, ledgers: dict[str, Ledger], level: str
) -> None:
    async def scenario() -> None:
        locks = LocalLockManager()
        hand = locks.lock("left/k", LockType.EXCLUSIVE, "hand")
        async with locks, hand, make_service(ledgers, lock_manager=locks) as service:
            wanted = request("c1", consistency_level=level)
            assert (await service.coordinate_transaction(wanted)).success

    asyncio.run(scenario())
