"""A row in PostgreSQL and a file in a folder, changed as one.

    python examples/postgres_and_files.py postgresql://user@host/database [WORK]

The server needs `max_prepared_transactions` above 0 in postgresql.conf (and a restart): it is off
by default, and the first start says so. WORK gets the files and the journal (default: ./invoices).
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from unanimity import CoordinationService, TransactionAborted
from unanimity.stores import FileStore, PostgresStore

TABLE = "CREATE TABLE IF NOT EXISTS invoice (number INTEGER PRIMARY KEY, cents BIGINT NOT NULL)"


async def issue(service: CoordinationService, number: int, cents: int) -> None:
    """The row and the printed invoice: both, or neither."""
    async with service.transaction(coordination_id=f"invoice-{number}") as tx:
        tx.add(
            "ledger",
            "execute",
            statement="INSERT INTO invoice VALUES ($1, $2)",
            parameters=[number, cents],
            expect_rows=1,
        )
        text = f"Invoice {number}\nTo pay: {cents / 100:.2f}\n"
        tx.add("papers", "put", key=f"{number}.txt", value=text)


async def main(dsn: str, work: Path) -> None:
    ledger, papers = PostgresStore(dsn, name="ledger"), FileStore(work / "papers", name="papers")
    work.mkdir(parents=True, exist_ok=True)
    stores = {"ledger": ledger, "papers": papers}
    async with CoordinationService(stores, journal=work / "journal.db") as service:
        async with service.transaction() as tx:
            tx.add("ledger", "execute", statement=TABLE)
        first = (await ledger.fetch("SELECT coalesce(max(number), 0) + 1 AS n FROM invoice"))[0][
            "n"
        ]
        for number in range(first, first + 3):
            await issue(service, number, number * 1999)
        # The same id with the same work is done once, however often it is asked for.
        await issue(service, first, first * 1999)
        try:
            async with service.transaction() as tx:
                tx.add("papers", "put", key="never.txt", value="nobody will read this")
                tx.add("ledger", "execute", statement="INSERT INTO invoice VALUES ($1, 1)",
                       parameters=[first])  # fmt: skip
        except TransactionAborted as error:
            print(f"refused, as it must be: {error}")
        rows = await ledger.fetch("SELECT number, cents FROM invoice ORDER BY number")
        for row in rows:
            paper = await papers.get_text(f"{row['number']}.txt")
            print(row, "with its paper" if paper else "WITHOUT ITS PAPER")
        print("never.txt exists:", await papers.get("never.txt") is not None)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "invoices")))
