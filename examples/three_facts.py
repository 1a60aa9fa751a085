"""Three facts about each document, in three stores, changed as one. Run it twice, or kill it.

    python examples/three_facts.py [FOLDER] [WORK]

FOLDER holds documents (default: this folder), WORK gets the stores (default: ./three-facts). The
third store is plain Python, complete: what it takes to put your own store under the same promise.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from unanimity import (
    AbortResult,
    CommitResult,
    CoordinationService,
    PrepareRequest,
    PrepareResult,
    TransactionAborted,
)
from unanimity.stores import FileStore, SqliteStore


class SearchEntries:
    """A store of our own: an entry is a file; staged ones wait in a folder beside the others."""

    def __init__(self, folder: Path) -> None:
        self.shown, self.staged = folder / "shown", folder / "staged"
        for each in (self.shown, self.staged):
            each.mkdir(parents=True, exist_ok=True)

    def prepare_transaction(self, request: PrepareRequest) -> PrepareResult:
        """Put everything on disk, so that commit has only a rename to do."""
        entries = {op["key"]: op["entry"] for op in request.operations}
        path = self.staged / request.transaction_id
        with path.open("w") as file:
            json.dump(entries, file)
            file.flush()
            os.fsync(file.fileno())
        sync(self.staged)
        return PrepareResult("search", "COMMIT")

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Show it. Asked again, the staged file has moved, and that is fine."""
        path = self.staged / transaction_id
        if path.exists():
            path.rename(self.shown / transaction_id)
            sync(self.shown)
        elif not (self.shown / transaction_id).exists():
            return CommitResult("search", "FAILED", "it was never prepared here")
        return CommitResult("search", "SUCCESS")

    def abort_transaction(self, transaction_id: str) -> AbortResult:
        """Forget it, whether or not it was ever here."""
        (self.staged / transaction_id).unlink(missing_ok=True)
        return AbortResult("search", "SUCCESS")

    def list_prepared_transactions(self) -> list[str]:
        """What waits for a decision; recovery asks this after a crash."""
        return [path.name for path in self.staged.iterdir()]

    def keys(self) -> set[str]:
        return {key for path in self.shown.iterdir() for key in json.loads(path.read_text())}


def sync(folder: Path) -> None:
    """Make a new name in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


async def store(service: CoordinationService, key: str, content: bytes) -> str:
    """All three facts, or none of them."""
    words = content.decode("utf-8", "replace").split()
    row = [key, hashlib.sha256(content).hexdigest(), len(words)]
    try:
        async with service.transaction() as tx:
            tx.add("blobs", "put", key=key, value=content)
            tx.add("rows", "execute", statement="INSERT INTO document VALUES (?, ?, ?)",
                   parameters=row)  # fmt: skip
            tx.add("search", "index", key=key, entry={"words": words[:20]})
    except TransactionAborted as error:
        # The row is there already: then the blob and the entry are not written either.
        return f"not stored: {error}"
    return "stored"


async def main(folder: Path, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    search = SearchEntries(work / "search")
    rows = SqliteStore(work / "rows.db")
    stores: dict[str, Any] = {"blobs": FileStore(work / "blobs"), "rows": rows, "search": search}
    # Leaving a killed run's work half done is not possible: entering here finishes it.
    async with CoordinationService(stores, journal=work / "journal.db") as service:
        async with service.transaction() as tx:
            tx.add("rows", "execute", statement="CREATE TABLE IF NOT EXISTS document "
                   "(key TEXT PRIMARY KEY, digest TEXT, words INTEGER)")  # fmt: skip
        documents = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        answers = await asyncio.gather(
            *(store(service, str(path.relative_to(folder)), path.read_bytes())
              for path in documents)
        )  # fmt: skip
        for path, answer in zip(documents, answers, strict=True):
            print(f"{path.relative_to(folder)}: {answer}")
        in_rows = {row["key"] for row in await rows.fetch("SELECT key FROM document")}
        in_blobs = {
            str(path.relative_to(work / "blobs"))
            for path in (work / "blobs").rglob("*")
            if path.is_file() and ".unanimity" not in path.parts
        }
        print(f"{len(in_rows)} rows, {len(in_blobs)} blobs, {len(search.keys())} search entries:")
        print("they agree" if in_rows == in_blobs == search.keys() else "THEY DISAGREE")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    source = given[0] if given else Path(__file__).parent
    asyncio.run(main(source, given[1] if len(given) > 1 else Path("three-facts")))
