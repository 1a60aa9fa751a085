"""A text in a row and its vector in an embedded vector store, changed as one.

Qdrant in its local mode keeps points in a folder and knows no transactions, and neither two phases
nor a list of what is prepared. `StagedStore` brings them: what is needed is `read`, `write` and
`delete` of one point. Run it as `python examples/vector_store.py FOLDER`; it needs `qdrant-client`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient, models

from unanimity import CoordinationService, TransactionAborted
from unanimity.staged import StagedStore
from unanimity.stores import SqliteStore

COLLECTION = "texts"
DIMENSIONS = 3


class VectorStore(StagedStore):
    """Maps a key to `{"vector": [...], "about": {...}}`."""

    def __init__(self, folder: str) -> None:
        """Open the folder; one process at a time, as Qdrant's local mode has it."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        super().__init__(Path(folder) / "staging.db", "vectors")
        # The local client serves one thread at a time.
        self._lock = threading.Lock()
        self._client = QdrantClient(path=folder, force_disable_check_same_thread=True)
        if not self._client.collection_exists(COLLECTION):
            dot = models.VectorParams(size=DIMENSIONS, distance=models.Distance.DOT)
            self._client.create_collection(COLLECTION, vectors_config=dot)

    def read(self, key: str) -> Any:
        """Give the point of a key, None where there is none."""
        with self._lock:
            found = self._client.retrieve(COLLECTION, [_id_of(key)], with_vectors=True)
        if not found:
            return None
        return {"vector": found[0].vector, "about": (found[0].payload or {})["about"]}

    def write(self, key: str, value: Any) -> None:
        """Set the point of a key."""
        payload = {"key": key, "about": value.get("about")}
        point = models.PointStruct(id=_id_of(key), vector=value["vector"], payload=payload)
        with self._lock:
            self._client.upsert(COLLECTION, [point])

    def delete(self, key: str) -> None:
        """Remove the point of a key."""
        with self._lock:
            self._client.delete(COLLECTION, models.PointIdsList(points=[_id_of(key)]))

    def nearest(self, vector: list[float]) -> list[str]:
        """Name the keys of the points, the nearest first."""
        with self._lock:
            found = self._client.query_points(COLLECTION, query=vector)
        return [str((point.payload or {})["key"]) for point in found.points]

    async def close(self) -> None:
        """Close both."""
        await super().close()
        self._client.close()


def _id_of(key: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, key))


async def work(folder: Path) -> None:
    """Change row and vector together, and fail to."""
    rows, vectors = SqliteStore(folder / "rows.db"), VectorStore(str(folder / "vectors"))
    stores = {"rows": rows, "vectors": vectors}
    create = "CREATE TABLE IF NOT EXISTS texts (name TEXT PRIMARY KEY, words TEXT)"
    insert = "INSERT INTO texts VALUES (?, ?)"
    async with CoordinationService(stores, journal=folder / "journal.db") as service:
        async with service.transaction() as tx:
            tx.add("rows", "execute", statement=create)
            for name, words, vector in (("sea", "salt", [1, 0, 0]), ("hill", "stone", [0, 1, 0])):
                tx.add("rows", "execute", statement=insert, parameters=[name, words])
                tx.add("vectors", "put", key=name, value={"vector": vector, "about": words})
        try:
            async with service.transaction() as tx:
                tx.add("vectors", "put", key="bog", value={"vector": [0, 0, 1], "about": "peat"})
                tx.add("rows", "execute", statement=insert, parameters=["sea", "again"])
        except TransactionAborted:
            print("the row was refused, so the vector is not there:", await vectors.get("bog"))
        print("nearest to the shore:", vectors.nearest([0.9, 0.1, 0]))
        print("rows:", [row["name"] for row in await rows.fetch("SELECT name FROM texts")])


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    asyncio.run(work(place))
