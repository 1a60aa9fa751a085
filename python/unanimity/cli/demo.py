"""`unanimity demo`: the promise, shown on real documents.

First all documents are stored, three facts each. Then everything starts over in a child process
that is killed with SIGKILL in the middle; the torn moment is shown, recovery runs, and what each
store holds afterwards is counted and compared. Exit code 0 only if all stores agree, nothing that
was acknowledged is missing, and nothing is left prepared.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._display import text_table
from .._exceptions import ConfigError, StoreError
from .archive import Archive, Document, Holdings, digest_of, find_documents, torn
from .journal import reading
from .output import print_json
from .progress import Progress

_CHILD_SECONDS_MAX = 300
_OPEN = frozenset({"initiated", "preparing", "prepared", "committing", "aborting"})


@dataclass
class Killed:
    """What the killed child had said."""

    acknowledged: list[str]
    halted_on: str


@dataclass
class Seen:
    """What the stores held at one moment."""

    holdings: Holdings
    prepared: dict[str, int]
    open_states: dict[str, int]

    def rows(self) -> list[tuple[object, ...]]:
        """A row for each store: how much, what digest, what is prepared."""
        return [
            (store, len(fact), digest_of(fact), self.prepared[store])
            for store, fact in self.holdings.items()
        ]

    def report(self) -> dict[str, Any]:
        """The same for programs."""
        names = ("store", "documents", "digest", "prepared")
        return {
            "stores": [dict(zip(names, row, strict=True)) for row in self.rows()],
            "torn": torn(self.holdings),
            "open": self.open_states,
        }


@dataclass
class Story:
    """What happened, in order."""

    documents: list[Document]
    seconds: float
    whole: Seen
    killed: Killed
    before: Seen
    after: Seen

    def faults(self) -> list[str]:
        """What is not as promised; nothing, if the promise holds."""
        stored = [document.key for document in self.documents]
        return _faults(self.whole, stored) + _faults(self.after, self.killed.acknowledged)

    def report(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "documents": len(self.documents),
            "seconds": round(self.seconds, 3),
            "whole": self.whole.report(),
            "acknowledged_before_the_kill": len(self.killed.acknowledged),
            "killed_in_the_middle_of": self.killed.halted_on,
            "torn_moment": self.before.report(),
            "recovered": self.after.report(),
            "faults": self.faults(),
            "agree": not self.faults(),
        }


def demo_verb(arguments: Namespace) -> int:
    """Tell the whole story."""
    work = _work_folder(arguments.into)
    try:
        story = _tell(arguments, work, (lambda text: None) if arguments.json else print)
    finally:
        if arguments.into is None:
            shutil.rmtree(work, ignore_errors=True)
    if arguments.json:
        print_json(story.report())
    return 1 if story.faults() else 0


def _tell(arguments: Namespace, work: Path, say: Callable[[str], None]) -> Story:
    source = Path(arguments.folder) if arguments.folder else Path(__file__).parent.parent
    documents = find_documents(source, arguments.limit)
    say(f"{len(documents)} documents of {source}, as three facts each: a blob in a folder, a")
    say("row in SQLite, an entry in a search index. Each document is one transaction.\n")
    whole, seconds = asyncio.run(_store_all(documents, work / "whole", arguments.width))
    say(f"Stored in {seconds:.2f} s, {len(documents) / seconds:.0f} documents a second:")
    say(_table(whole) + "\n")
    killed = _store_and_kill(source, work / "killed", len(documents), arguments)
    say(f"Again, in a child: killed with SIGKILL when {len(killed.acknowledged)} were stored.")
    before, after = asyncio.run(_recover(work / "killed"))
    say(f"The torn moment ({_torn_words(before)}):\n{_table(before)}")
    say(f"The journal had open: {_open_words(before)}.\n")
    say(f"After recovery:\n{_table(after)}\n")
    story = Story(documents, seconds, whole, killed, before, after)
    say("\n".join(story.faults()) or _verdict(after, killed))
    return story


def _work_folder(into: str | None) -> Path:
    if into is None:
        return Path(tempfile.mkdtemp(prefix="unanimity-demo-"))
    work = Path(into)
    if work.exists() and (not work.is_dir() or any(work.iterdir())):
        raise ConfigError(f"{work} is not an empty folder; give one that is, or a new name")
    work.mkdir(parents=True, exist_ok=True)
    return work


async def _store_all(documents: list[Document], folder: Path, width: int) -> tuple[Seen, float]:
    archive = Archive(folder)
    progress = Progress("storing", len(documents))
    async with archive.service:
        await archive.make_table()
        begin = time.perf_counter()
        await archive.put_all(documents, width, lambda document: progress.step())
        seconds = time.perf_counter() - begin
        progress.end()
        return Seen(await archive.holdings(), await archive.prepared(), {}), seconds


def _store_and_kill(source: Path, folder: Path, total: int, arguments: Namespace) -> Killed:
    halt_at = max(1, total // 2)
    numbers = map(str, (arguments.limit, arguments.width, halt_at))
    command = [sys.executable, "-m", f"{__package__}.demo_child", str(source), str(folder)]
    child = subprocess.Popen(
        [*command, *numbers], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watch = threading.Timer(_CHILD_SECONDS_MAX, child.kill)
    watch.start()
    progress = Progress("storing, to be killed", total)
    acknowledged: list[str] = []
    halted_on = None
    assert child.stdout is not None and child.stderr is not None
    try:
        for line in child.stdout:
            word, _, key = line.rstrip("\n").partition("\t")
            if word == "torn":
                halted_on = key
                break
            acknowledged.append(key)
            progress.step()
    finally:
        child.send_signal(signal.SIGKILL)
        watch.cancel()
        # What was acknowledged between the halt and the kill counts too.
        rest, trouble = child.communicate()
        progress.end()
    if halted_on is None:
        last = trouble.strip().splitlines()[-1:] or ["it said nothing"]
        raise StoreError(f"the child ended before it could be killed: {last[0]}")
    late = [line.split("\t") for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    acknowledged += [fields[1].rstrip("\n") for fields in late if fields[0] == "stored"]
    return Killed(acknowledged, halted_on)


async def _recover(folder: Path) -> tuple[Seen, Seen]:
    archive = Archive(folder)
    before = await _look(archive)
    async with archive.service as service:
        await service.recover()
        for coordination_id in await service.list_active_coordinations():
            await service.wait_for(coordination_id, timeout=60)
        return before, await _look(archive)


async def _look(archive: Archive) -> Seen:
    with reading(str(archive.journal)) as reader:
        states: dict[str, int] = reader.status()["states"]
    open_states = {state: count for state, count in states.items() if count and state in _OPEN}
    return Seen(await archive.holdings(), await archive.prepared(), open_states)


def _faults(seen: Seen, promised: list[str]) -> list[str]:
    faults = [f"TORN: {key} is not the same in every store" for key in torn(seen.holdings)]
    for store, fact in seen.holdings.items():
        faults += [f"LOST: {key} is not in {store}" for key in promised if key not in fact]
    faults += [f"LEFT: {store} holds {n} prepared" for store, n in seen.prepared.items() if n]
    return faults


def _table(seen: Seen) -> str:
    return text_table(("store", "documents", "digest of all", "prepared"), seen.rows())


def _torn_words(seen: Seen) -> str:
    keys = torn(seen.holdings)
    return f"{len(keys)} torn, such as {keys[0]}" if keys else "no document is torn"


def _open_words(seen: Seen) -> str:
    return ", ".join(f"{n} {state}" for state, n in seen.open_states.items()) or "nothing"


def _verdict(after: Seen, killed: Killed) -> str:
    count = len(after.holdings["blobs"])
    return (
        f"All three stores agree: {count} of {count} documents are the same in each. None of the "
        f"{len(killed.acknowledged)} acknowledged is missing, and nothing is left prepared."
    )
