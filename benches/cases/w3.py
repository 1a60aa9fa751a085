"""W3: two-phase commit over two plain Python stores, and the original design's code beside us.

Ours keeps the decision in a SQLite journal with fsync. The peers: the original design's asyncio
code, which keeps nothing; the same with one SQLite commit for each decision, on the loop's
thread; the same with group commit in plain Python.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from group_commit import GroupCommit, decisions_database, into_sqlite
from measure import Case, Row, main, run_callers
from original_design import OriginalService
from plain_stores import ListingStore, PlainStore, check_agreement, put_request

from unanimity import CoordinationService


class CommitEach(OriginalService):
    """The original design with a durable decision: one commit each."""

    def __init__(self, stores: dict[str, Any], path: Path) -> None:
        """Open the file."""
        super().__init__(stores)
        self._connection = decisions_database(path)

    async def decided(self, coordination_id: str) -> None:
        """Write the decision, and block until the disk has it."""
        self._connection.execute("INSERT INTO decision VALUES (?, 'COMMIT')", (coordination_id,))


class CommitTogether(OriginalService):
    """The original design with a durable decision: group commit in a thread."""

    def __init__(self, stores: dict[str, Any], path: Path) -> None:
        """Open the file and start the thread."""
        super().__init__(stores)
        self._group = GroupCommit(into_sqlite(path))

    async def decided(self, coordination_id: str) -> None:
        """Wait until the disk has it."""
        await self._group.append(coordination_id)

    async def close(self) -> None:
        """End the thread."""
        self._group.close()


async def _measure(case: Case, service: Any, stores: list[Any]) -> Row:
    """Put pairs of keys, and see that both stores hold the same in the end."""

    async def put(number: int) -> None:
        result = await service.coordinate_transaction(put_request(number))
        if not result.success:
            raise AssertionError(result.error_message)

    row = await run_callers(case, put)
    await service.close()
    check_agreement(stores[0], stores[1], row["operations"])
    return row


async def _ours(case: Case, kind: type[PlainStore]) -> Row:
    stores = [kind("left"), kind("right")]
    service = CoordinationService(
        {store.store_name: store for store in stores}, journal=case.folder / "journal.db"
    )
    await service.start()
    return await _measure(case, service, stores)


async def ours(case: Case) -> Row:
    """Ours, over stores that can name what is prepared."""
    return await _ours(case, ListingStore)


async def ours_without_list(case: Case) -> Row:
    """Ours, over stores that cannot, so that the begin record is forced too."""
    return await _ours(case, PlainStore)


def _two_stores() -> dict[str, Any]:
    return {"left": PlainStore("left"), "right": PlainStore("right")}


async def _peer(case: Case, service: OriginalService) -> Row:
    return await _measure(case, service, list(service.stores.values()))


async def original(case: Case) -> Row:
    """The original design's code, not durable."""
    return await _peer(case, OriginalService(_two_stores()))


async def original_commit_each(case: Case) -> Row:
    """The same with a commit for each decision."""
    return await _peer(case, CommitEach(_two_stores(), case.folder / "decisions.db"))


async def original_group_commit(case: Case) -> Row:
    """The same with group commit in plain Python."""
    return await _peer(case, CommitTogether(_two_stores(), case.folder / "decisions.db"))


if __name__ == "__main__":
    main(
        {
            "unanimity": ours,
            "unanimity, stores cannot list": ours_without_list,
            "original design, not durable": original,
            "original design, commit each": original_commit_each,
            "original design, group commit": original_group_commit,
        }
    )
