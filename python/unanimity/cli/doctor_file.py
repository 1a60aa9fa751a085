"""The part of `doctor` that looks at a file's disk: rights, kind, room, and whether it syncs.

Not what stands in the journal. Invariant: what it writes it removes, also when it fails.
"""

from __future__ import annotations

import os
import shutil
import stat
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .findings import Finding, bad, note, ok, warning
from .output import size

# File systems that forget with the machine, and those on which locks and syncs are only promised.
_VOLATILE = ("tmpfs", "ramfs")
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "glusterfs")
_ROOM_BAD, _ROOM_WARNING = 64 * 1024 * 1024, 1024 * 1024 * 1024
_SYNC_SLOW_SECONDS = 0.1
# No disk is that quick; memory and drives that acknowledge too early are.
_SYNC_UNBELIEVABLE_SECONDS = 5e-6
_SYNCS = 5


def file_findings(path: str) -> Iterator[Finding]:
    """Everything about the disk of a journal's file, which is there."""
    folder = Path(path).resolve().parent
    yield from _rights(Path(path), folder)
    yield from _file_system(folder)
    yield from room_findings("disk", folder)
    yield from _sync(folder)


def _rights(file: Path, folder: Path) -> Iterator[Finding]:
    places = (("file", file, os.R_OK | os.W_OK), ("folder", folder, os.R_OK | os.W_OK | os.X_OK))
    for what, place, rights in places:
        if not os.access(place, rights):
            yield bad(
                "permissions",
                f"the {what} {place} cannot be read and written by this user",
                f"give it to the services' user: chown, or chmod u+rw{'x' * (what == 'folder')}",
            )
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError as error:
        yield bad("permissions", str(error), "see to the file")
        return
    if mode & stat.S_IWOTH:
        what = f"everybody may write {file} (mode {mode:o})"
        yield bad("permissions", what, f"chmod o-w {file}")
    elif mode & stat.S_IROTH:
        what = f"everybody may read {file} (mode {mode:o}), which has what was asked for in it"
        yield note("permissions", what, f"chmod o-r {file}, if that is nobody's business")
    else:
        yield ok("permissions", f"mode {mode:o}")


def _file_system(folder: Path) -> Iterator[Finding]:
    kind = _kind_of(folder)
    if kind in _VOLATILE:
        yield bad(
            "file system",
            f"{folder} is {kind}: memory, which is gone with the machine",
            "move the journal to a disk",
        )
    elif kind in _REMOTE:
        yield warning(
            "file system",
            f"{folder} is on {kind}, whose locks and syncs depend on a server",
            "keep the journal on a local disk, or in PostgreSQL",
        )
    elif kind == "overlay":
        yield warning(
            "file system",
            f"{folder} is in a container's own layer, which is gone with the container",
            "mount a volume for the journal",
        )
    elif kind is not None:
        yield ok("file system", kind)


def _kind_of(folder: Path) -> str | None:
    """The kind of the file system that is mounted there, where the system tells."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    best, kind = "", None
    for line in lines:
        before, _, after = line.partition(" - ")
        # Octal escapes stand for blanks in a name.
        point = before.split()[4].replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def room_findings(check: str, folder: Path) -> Iterator[Finding]:
    """How much room the disk of a folder has."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        yield bad(check, str(error), "see to the folder")
        return
    what = f"{size(usage.free)} of {size(usage.total)} are free"
    if usage.free < _ROOM_BAD:
        yield bad(check, what, "make room: a journal that cannot write refuses everything new")
    elif usage.free < _ROOM_WARNING:
        yield warning(check, what, "make room before it is full; `unanimity gc --shrink` may help")
    else:
        yield ok(check, what)


def _sync(folder: Path) -> Iterator[Finding]:
    """Whether the disk takes a write and a sync, and in a time that a disk may need."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".unanimity-doctor-") as file:
            times = [_timed_sync(file.fileno()) for _ in range(_SYNCS)]
    except OSError as error:
        yield bad("sync", f"a file in {folder} cannot be written and synced: {error}", "mend it")
        return
    median = statistics.median(times)
    what = f"a write and a sync took {median * 1000:.2f} ms"
    if median > _SYNC_SLOW_SECONDS:
        yield warning("sync", what, "every commit waits for one: use a quicker disk")
    elif median < _SYNC_UNBELIEVABLE_SECONDS:
        mend = "make sure that the disk does not acknowledge what it only has in memory"
        yield warning("sync", what + ", which no disk can do", mend)
    else:
        yield ok("sync", what)


def _timed_sync(descriptor: int) -> float:
    begin = time.perf_counter()
    os.write(descriptor, b"\0" * 4096)
    os.fsync(descriptor)
    return time.perf_counter() - begin
