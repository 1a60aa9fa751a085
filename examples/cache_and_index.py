"""A cache and a search index follow a database: accepted at once, delivered until both have it.

    python examples/cache_and_index.py [WORK]

WORK gets the database and the journal (default: ./articles). The search index is away for the
first tries; the writer does not wait for it. Changes of one article arrive in their order, so an
old title never comes after a new one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from unanimity import (
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    OperationRequest,
    Participant,
)
from unanimity.stores import MemoryStore, SqliteStore

TABLE = "CREATE TABLE IF NOT EXISTS article (id TEXT PRIMARY KEY, title TEXT NOT NULL)"
UPSERT = "INSERT INTO article VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET title = excluded.title"


def search_index(words: dict[str, set[str]], away_for: int) -> Participant:
    """An index that cannot be reached for the first tries."""
    index = Participant("index")
    tries = 0

    @index.operation("index")
    async def put(request: OperationRequest) -> None:
        nonlocal tries
        tries += 1
        if tries <= away_for:
            raise ConnectionError("the search index is away")
        key = request.operation["key"]
        for articles in words.values():
            articles.discard(key)
        for word in request.operation["title"].lower().split():
            words.setdefault(word, set()).add(key)

    return index


def change(number: int, article: str, title: str) -> CoordinationRequest:
    """Say what the three stores shall have in the end."""
    operations = [
        {
            "store": "rows",
            "type": "execute",
            "resource": article,
            "statement": UPSERT,
            "parameters": [article, title],
        },
        {"store": "cache", "type": "put", "key": article, "value": title},
        {"store": "index", "type": "index", "key": article, "title": title},
    ]
    kind = CoordinationType.EVENTUAL_CONSISTENCY
    stores = ["rows", "cache", "index"]
    return CoordinationRequest(f"change-{number}", kind, stores, operations, 30, "eventual")


async def main(work: Path) -> None:
    """Write three changes, and see that all stores agree in the end."""
    work.mkdir(parents=True, exist_ok=True)
    words: dict[str, set[str]] = {}
    rows, cache = SqliteStore(work / "articles.db", name="rows"), MemoryStore("cache")
    stores = {"rows": rows, "cache": cache, "index": search_index(words, away_for=3)}
    async with CoordinationService(stores, journal=work / "journal.db") as service:
        async with service.transaction() as tx:
            tx.add("rows", "execute", statement=TABLE)
        titles = (("a", "Green tea"), ("b", "Black coffee"), ("a", "White tea"))
        for number, (article, title) in enumerate(titles):
            result = await service.coordinate_transaction(change(number, article, title))
            print(f"{article}: {title!r} is accepted ({result.final_state.value})")
        for number in range(len(titles)):
            await service.wait_for(f"change-{number}", timeout=60)
        found = await rows.fetch("SELECT id, title FROM article ORDER BY id")
        print("rows: ", [row["title"] for row in found])
        print("cache:", [await cache.get("a"), await cache.get("b")])
        print("index:", {word: sorted(words[word]) for word in sorted(words) if words[word]})


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "articles")))
