"""A store's own disk is full when it is told to commit: `full_store_disk.py FOLDER`.

The limit is that of the process (RLIMIT_FSIZE), set between the two phases, which are asked of the
stores one by one as the engine does it. Prints what each answered, in order.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from unanimity import PrepareRequest, StoreError
from unanimity.stores import FileStore, SqliteStore

# Without a handler the system would end the process instead of failing the write.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
HARD = resource.getrlimit(resource.RLIMIT_FSIZE)[1]


def limit(most: int) -> None:
    """No file can be written beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, HARD))


async def rows(folder: Path) -> dict[str, Any]:
    """SQLite: the statements are staged, the commit meets the full disk, then there is room."""
    store = SqliteStore(folder / "rows.db")
    statements = [
        {"store": "sqlite", "type": "execute", "statement": text}
        for text in (
            "CREATE TABLE facts (name TEXT)",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) "
            "INSERT INTO facts SELECT hex(zeroblob(2000)) FROM n",
        )
    ]
    vote = await store.prepare_transaction(PrepareRequest("t1", statements, 10))
    limit(64 * 1024)
    try:
        full = (await store.commit_transaction("t1")).status
    except StoreError as error:
        full = f"{error.code}, retryable: {error.retryable}"
    limit(HARD)
    again = await store.commit_transaction("t1")
    count = (await store.fetch("SELECT count(*) AS n FROM facts"))[0]["n"]
    left = await store.list_prepared_transactions()
    await store.close()
    return {"vote": vote.vote, "full": full, "again": again.status, "n": count, "left": left}


async def files(folder: Path) -> dict[str, Any]:
    """Files: the contents do not fit, so the vote is ABORT and nothing is kept."""
    store = FileStore(folder / "files")
    put = [{"store": "files", "type": "put", "key": "a", "value": "x" * 200_000}]
    limit(64 * 1024)
    full = await store.prepare_transaction(PrepareRequest("t1", put, 10))
    limit(HARD)
    left = await store.list_prepared_transactions()
    staged = [str(path) for path in folder.glob("files/.unanimity/*/*/staged/*")]
    vote = await store.prepare_transaction(PrepareRequest("t2", put, 10))
    again = await store.commit_transaction("t2")
    size = len(await store.get("a") or b"")
    await store.close()
    return {
        "full": full.vote,
        "reason": full.reason,
        "left": left + staged,
        "vote": vote.vote,
        "again": again.status,
        "size": size,
    }


async def both(folder: Path) -> dict[str, Any]:
    """One after the other, because the limit is everybody's."""
    return {"rows": await rows(folder), "files": await files(folder)}


print(json.dumps(asyncio.run(both(Path(sys.argv[1])))))
