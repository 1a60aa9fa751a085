"""The part of `doctor` that looks for orphans: what stores hold prepared, and nobody will decide.

Stores are looked at from outside: no service is started and no store is attached, so nothing is
rolled back or delivered by looking. Invariant: only what carries this journal's id is judged.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._exceptions import StoreError, UnanimityError
from .._records import CoordinationRecord
from .findings import Finding, bad, note, ok, warning
from .recover import addresses_of, stores_of_module

if TYPE_CHECKING:
    from .._engine import JournalReader

_GIDS = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
_STAGED = "SELECT cluster_id, store_name, transaction_id FROM unanimity_staged"
_HAS_STAGED = "SELECT 1 FROM sqlite_master WHERE name = 'unanimity_staged'"


def store_findings(reader: JournalReader, arguments: Namespace) -> Iterator[Finding]:
    """What each store that is named holds prepared, beside what the journal says of it."""
    for name, (kind, where) in addresses_of(arguments.store).items():
        check = f"store {name}"
        if kind == "postgres":
            from .doctor_servers import store_server_findings

            yield from store_server_findings(check, where)
        try:
            ids = _prepared_at(kind, where, name, reader.cluster())
        except (UnanimityError, OSError, ValueError, KeyError) as error:
            yield bad(check, str(error), "see to the store, and its address")
            continue
        yield from _judged(check, ids, reader)
    for name, store in stores_of_module(arguments.stores).items():
        yield from _of_object(f"store {name}", store, reader)


def _prepared_at(kind: str, where: str, name: str, cluster: str) -> list[str]:
    if kind == "files":
        return _staged_files(Path(where), name, cluster)
    if kind == "sqlite":
        if not Path(where).is_file():
            raise StoreError(f"there is no file {where}; give the store's path")
        return asyncio.run(_staged_rows(where, name, cluster))
    return asyncio.run(_gids(where, name, cluster))


def _staged_files(root: Path, name: str, cluster: str) -> list[str]:
    if not root.is_dir():
        raise StoreError(f"there is no folder {root}; give the store's path")
    own = root / ".unanimity" / _folder_name(cluster) / _folder_name(name)
    if not (own / "staged").is_dir():
        return []
    ids = []
    for folder in (own / "staged").iterdir():
        # One that is applied is only still to be removed; one without a manifest is no promise.
        if (folder / "manifest.json").exists() and not (own / "applied" / folder.name).exists():
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            ids.append(str(manifest["transaction_id"]))
    return ids


async def _staged_rows(path: str, name: str, cluster: str) -> list[str]:
    from ..stores import SqliteStore

    store = SqliteStore(path, name="doctor")
    try:
        has_table = await store.fetch(_HAS_STAGED)
        rows = await store.fetch(_STAGED) if has_table else []
    finally:
        await store.close()
    wanted = (cluster, name)
    return [
        row["transaction_id"] for row in rows if (row["cluster_id"], row["store_name"]) == wanted
    ]


async def _gids(dsn: str, name: str, cluster: str) -> list[str]:
    from ..stores import PostgresStore

    store = PostgresStore(dsn, name="doctor", min_connections=1, max_connections=2)
    try:
        rows = await store.fetch(_GIDS)
    finally:
        await store.close()
    before = f"unanimity:{_escaped(cluster)}:{_escaped(name)}:"
    return [row["gid"][len(before) :] for row in rows if row["gid"].startswith(before)]


def _folder_name(text: str) -> str:
    """The name of the folder of a journal or a store, as a store of files makes it."""
    plain = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
    return "".join(chr(byte) if byte in plain else f"%{byte:02x}" for byte in text.encode())


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace(":", "%3A")


def _of_object(check: str, store: Any, reader: JournalReader) -> Iterator[Finding]:
    """A Python store says itself what it holds; one of ours is better named by its address."""
    method = getattr(store, "list_prepared_transactions", None)
    if method is None or hasattr(store, "_native"):
        words = "it cannot say what is prepared" if method is None else "it is not attached here"
        yield note(check, words, "give --store NAME=KIND:WHERE for our own stores")
        return
    try:
        found = method()
        ids = asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found
    except Exception as error:
        yield bad(check, f"it cannot say what is prepared: {error!r}", "see to the store")
        return
    yield from _judged(check, list(ids), reader)


async def _awaited(found: Any) -> Any:
    return await found


def _judged(check: str, ids: list[str], reader: JournalReader) -> Iterator[Finding]:
    """Prepared work is well while its coordination is open; else it waits for nobody."""
    orphans: list[str] = []
    ended: list[str] = []
    for id in ids:
        row = reader.describe(id)
        if row is None:
            orphans.append(id)
        elif CoordinationRecord.from_engine(row).completed_at is not None:
            ended.append(id)
    if orphans:
        yield warning(
            check,
            f"{len(orphans)} are prepared that no record tells of, such as {orphans[0]}",
            "a service with this store rolls them back within minutes: start it; or it is one "
            "that is just beginning",
        )
    if ended:
        yield warning(
            check,
            f"{len(ended)} are prepared whose coordination has ended, such as {ended[0]}",
            "start a service with this store: it is told the decision again",
        )
    if not orphans and not ended:
        yield ok(check, f"{len(ids)} are prepared, all of open coordinations")
