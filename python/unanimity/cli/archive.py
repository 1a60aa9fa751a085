"""The demo's archive: each document is three facts in three stores, changed as one.

A blob in a folder, a row of counts in SQLite, an entry in a search index with its own file.
Not the demo's story: that is `demo`. Invariant: all three facts carry the content's digest, so
whether the stores agree can be computed from what they hold.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .._exceptions import ConfigError
from .._service import CoordinationService
from .._types import CoordinationResult
from ..stores import FileStore, SqliteStore
from .search_index import SearchIndex

_TABLE = (
    "CREATE TABLE IF NOT EXISTS documents (path TEXT PRIMARY KEY, digest TEXT NOT NULL, "
    "bytes INTEGER NOT NULL, lines INTEGER NOT NULL, words INTEGER NOT NULL)"
)
_INSERT = "INSERT INTO documents (path, digest, bytes, lines, words) VALUES (?, ?, ?, ?, ?)"
_DOCUMENT_BYTES_MAX = 4 * 1024 * 1024

Holdings = dict[str, dict[str, str]]
"""By store, by document: the digest."""


@dataclass(frozen=True)
class Document:
    """A real file, and the key under which it is stored."""

    key: str
    path: Path


def find_documents(folder: Path, limit: int) -> list[Document]:
    """List the folder's files, sorted, without hidden ones, links, giants and unprintable names."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give one that has documents in it")
    documents: list[Document] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith((".", "__pycache__")))
        for name in sorted(names):
            path = Path(parent, name)
            key = path.relative_to(folder).as_posix()
            if key.isprintable() and _is_document(path):
                documents.append(Document(key, path))
    if not documents:
        raise ConfigError(f"{folder} has no documents; give a folder that has some")
    return documents[:limit]


def _is_document(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix in (".so", ".pyc") or path.is_symlink():
        return False
    return path.is_file() and 0 < path.stat().st_size <= _DOCUMENT_BYTES_MAX


class Archive:
    """The three stores in one folder, and the service that changes them as one."""

    def __init__(self, folder: Path, index: Callable[[Path], SearchIndex] = SearchIndex) -> None:
        """Make or open everything below the folder; nothing is recovered yet."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.journal = folder / "journal.db"
        self.blobs = FileStore(folder / "blobs", name="blobs")
        self.metadata = SqliteStore(folder / "metadata.db", name="metadata")
        self.index = index(folder / "search.log")
        self.service = CoordinationService(
            {"blobs": self.blobs, "metadata": self.metadata, "index": self.index},
            journal=self.journal,
        )

    async def make_table(self) -> None:
        """Make the table for the rows, where it is missing."""
        async with self.service.transaction() as tx:
            tx.add("metadata", "execute", statement=_TABLE)

    async def put(self, document: Document) -> CoordinationResult:
        """Store a document's three facts, or none of them."""
        content = await asyncio.to_thread(document.path.read_bytes)
        text = content.decode("utf-8", "replace")
        words = text.split()
        digest = _digest(content)
        common = [word for word, _ in Counter(word.lower() for word in words).most_common(20)]
        title = next((line.strip("# \"'") for line in text.splitlines() if line.strip()), "")
        entry = {"digest": digest, "title": title[:100], "words": common}
        row = [document.key, digest, len(content), text.count("\n"), len(words)]
        async with self.service.transaction(metadata={"document": document.key}) as tx:
            tx.add("blobs", "put", key=document.key, value=content)
            tx.add("metadata", "execute", statement=_INSERT, parameters=row, expect_rows=1)
            tx.add("index", "index", key=document.key, entry=entry)
        assert tx.result is not None
        return tx.result

    async def put_all(
        self, documents: Iterable[Document], width: int, done: Callable[[Document], None]
    ) -> None:
        """Store many documents, `width` at a time."""
        waiting = iter(documents)

        async def work() -> None:
            for document in waiting:
                await self.put(document)
                done(document)

        await asyncio.gather(*(work() for _ in range(width)))

    async def holdings(self) -> Holdings:
        """Read what each store shows, from each store itself."""
        rows = await self.metadata.fetch("SELECT path, digest FROM documents")
        entries = self.index.entries()
        return {
            "blobs": await asyncio.to_thread(self._blob_digests),
            "metadata": {row["path"]: row["digest"] for row in rows},
            "index": {key: entry["digest"] for key, entry in entries.items()},
        }

    def _blob_digests(self) -> dict[str, str]:
        root = self.folder / "blobs"
        return {
            path.relative_to(root).as_posix(): _digest(path.read_bytes())
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.relative_to(root).parts[0] != ".unanimity"
        }

    async def prepared(self) -> dict[str, int]:
        """Count what each store has staged and not resolved, as it lies there."""
        # Read from the files, because a store answers for the journal that has it open, and before
        # recovery none has.
        staged = self.folder.glob("blobs/.unanimity/*/*/staged/*")
        rows = await self.metadata.fetch("SELECT count(*) AS n FROM unanimity_staged")
        return {
            "blobs": sum(1 for _ in staged),
            "metadata": rows[0]["n"],
            "index": len(self.index.list_prepared_transactions()),
        }


def torn(holdings: Holdings) -> list[str]:
    """Name the documents that some stores show and others do not, or show differently."""
    facts = list(holdings.values())
    keys = sorted({key for fact in facts for key in fact})
    return [key for key in keys if len({fact.get(key) for fact in facts}) > 1]


def digest_of(fact: dict[str, str]) -> str:
    """One digest over all that a store shows."""
    return _digest("\n".join(f"{key}\t{fact[key]}" for key in sorted(fact)).encode())[:16]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
