"""The yardstick: durable records a second of group commit in plain Python, on an appended file.

One record of 300 bytes for each operation; the caller waits until `fdatasync` has returned.
"""

from __future__ import annotations

from group_commit import GroupCommit, into_file
from measure import Case, Row, main, run_callers

_RECORD = "x" * 299 + "\n"


async def appended_file(case: Case) -> Row:
    """A thread that takes the queue, and one `fdatasync` for each batch."""
    path = case.folder / "records"
    group = GroupCommit(into_file(path))

    async def append(_: int) -> None:
        await group.append(_RECORD)

    row = await run_callers(case, append)
    group.close()
    if path.stat().st_size < row["operations"] * len(_RECORD):
        raise AssertionError("records are missing")
    return row


if __name__ == "__main__":
    main({"plain Python, appended file": appended_file})
