"""Accounts whose truth is a row of events, with two views that are made of it.

    python examples/event_account.py [WORK]

WORK gets the journal and the view of balances (default: ./accounts). Three tellers, each with
an idea of the account that may be old, withdraw at once: the version that they expect lets one of
them through at a time, and the others read again and decide anew. Run it twice, or kill it in the
middle: the views go on from where they were, and no event is counted twice.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from unanimity import (
    CoordinationResult,
    CoordinationService,
    CoordinationType,
    Event,
    IStorageStore,
    TransactionAborted,
)

SIGNS = {"opened": 1, "deposited": 1, "withdrawn": -1}


class Balances:
    """A table of balances. It keeps the last event's position with what it made of it.

    Any object with the method is a store; a plain function runs in a thread.
    """

    def __init__(self, path: Path) -> None:
        self.store_name = "balances"
        self.path = path
        with closing(sqlite3.connect(path)) as rows, rows:
            rows.execute("CREATE TABLE IF NOT EXISTS balance (account TEXT PRIMARY KEY, sum INT)")
            rows.execute("CREATE TABLE IF NOT EXISTS seen (one INT PRIMARY KEY, position INT)")
            rows.execute("INSERT OR IGNORE INTO seen VALUES (1, 0)")

    def apply_event(self, event: Event) -> None:
        amount = SIGNS[event.event_type] * event.data["amount"]
        with closing(sqlite3.connect(self.path)) as rows, rows:
            news = rows.execute(
                "UPDATE seen SET position = ?1 WHERE position < ?1", (event.global_position,)
            )
            if news.rowcount == 0:
                return  # it came before, and is in the sums
            rows.execute(
                "INSERT INTO balance VALUES (?1, ?2) "
                "ON CONFLICT (account) DO UPDATE SET sum = sum + ?2",
                (event.stream_id, amount),
            )

    def of(self, account: str) -> int:
        with closing(sqlite3.connect(self.path)) as rows:
            found = rows.execute("SELECT sum FROM balance WHERE account = ?", (account,)).fetchone()
        return int(found[0]) if found else 0


class Largest(IStorageStore):
    """The largest deposit so far, in memory: made anew at every start."""

    def __init__(self) -> None:
        self.store_name = "largest"
        self.amount = 0

    async def apply_event(self, event: Event) -> None:
        if event.event_type == "deposited":
            self.amount = max(self.amount, event.data["amount"])


async def append(
    service: CoordinationService, account: str, kind: str, amount: int, version: int
) -> CoordinationResult:
    """One event, if the account is still as it was read."""
    async with service.transaction(
        coordination_type=CoordinationType.EVENT_SOURCING, consistency_level="session"
    ) as tx:
        fields = {"stream": account, "expected_version": version, "data": {"amount": amount}}
        tx.add("balances", kind, **fields)
    assert tx.result is not None
    return tx.result


async def withdraw(service: CoordinationService, account: str, amount: int) -> bool:
    """Withdraw if there is enough, by what the events say; read again when they have changed."""
    while True:
        events = await service.read_stream(account)
        held = sum(SIGNS[event.event_type] * event.data["amount"] for event in events)
        if held < amount:
            return False
        try:
            await append(service, account, "withdrawn", amount, len(events))
        except TransactionAborted:
            continue  # somebody else was quicker
        return True


async def main(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    balances, largest = Balances(work / "balances.db"), Largest()
    stores = {"balances": balances, "largest": largest}
    async with CoordinationService(stores, journal=work / "journal.db") as service:
        account = f"account-{len(list(work.glob('*.done'))) + 1}"
        version = await service.stream_version(account)
        if version == 0:
            await append(service, account, "opened", 20, 0)
            await append(service, account, "deposited", 80, 1)
        tellers = [withdraw(service, account, 40) for _ in range(3)]
        print("tellers:", sorted(await asyncio.gather(*tellers)))
        for event in await service.read_stream(account):
            print(f"{event.stream_id} {event.version}: {event.event_type} {event.data['amount']}")
        print("balance:", balances.of(account))
        await service.rebuild_projection("largest")
        print("largest deposit:", largest.amount)
        (work / f"{account}.done").touch()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "accounts")))
