"""The demo's child, which is going to be killed: `python -m unanimity.cli.demo_child`.

It stores documents as the demo does and names each on stdout once it is acknowledged. In the
middle of one commit, when the blob shows and the search entry does not, it says so and holds still;
whoever started it kills it there. Invariant: it never ends by itself once it said "torn".
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

from .._stores import CommitResult
from .archive import Archive, Document, find_documents
from .search_index import SearchIndex


class HaltingIndex(SearchIndex):
    """A search index that holds still in the middle of its n-th commit."""

    def __init__(self, path: Path, halt_at: int) -> None:
        """Count down from `halt_at`."""
        super().__init__(path)
        self._blobs = path.parent / "blobs"
        self._left = halt_at
        self._count = threading.Lock()

    def commit_transaction(self, transaction_id: str) -> CommitResult:
        """Commit, except for the one."""
        with self._count:
            self._left -= 1
            halts = self._left == 0
        if halts:
            key = self._staged[transaction_id][0]["key"]
            # The blob is committed beside this, so it shows at once; the bound is for its failure.
            deadline = time.monotonic() + 10
            while not (self._blobs / key).exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            say("torn", key)
            threading.Event().wait()
        return super().commit_transaction(transaction_id)


def say(word: str, key: str) -> None:
    """Tell the parent, in one write."""
    sys.stdout.write(f"{word}\t{key}\n")
    sys.stdout.flush()


async def store(documents: list[Document], folder: Path, width: int, halt_at: int) -> None:
    """Store the documents until the halt."""
    archive = Archive(folder, lambda path: HaltingIndex(path, halt_at))
    async with archive.service:
        await archive.make_table()
        await archive.put_all(documents, width, lambda document: say("stored", document.key))


if __name__ == "__main__":
    source, target, limit, width, halt_at = sys.argv[1:]
    found = find_documents(Path(source), int(limit))
    asyncio.run(store(found, Path(target), int(width), int(halt_at)))
