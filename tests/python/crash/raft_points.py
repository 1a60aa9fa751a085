"""The kills of a node as data: where its process dies, how often in a row, alone or among three.

`POINTS` has every named point of the log, of its segments and of the snapshots; a test compares
it with the source. Invariant: a case's points are reached, else the test that runs it fails.
"""

from __future__ import annotations

from dataclasses import dataclass

POINTS = {
    "raft_log:written": "entries or a vote written, not on disk",
    "raft_log:synced": "on disk, before anybody hears",
    "raft_snapshot:named": "a snapshot in place, the one before it and the log still there",
    "segment:headed": "the next file of the log has its head, not its name",
    "segment:named": "it has its name, which is not on disk",
    "segment:written": "written, before anything is synced",
    "segment:marked": "the end of a full file marked",
    "segment:full": "a full file on disk, the next not begun",
    "segment:removed": "a file of the log removed behind a snapshot",
}
"""By point: what has and has not happened when a process dies there."""


@dataclass(frozen=True)
class RaftCase:
    """Some kills of one node, each in the process that goes on with what the last one left."""

    points: tuple[str, ...]
    """Each a point with how often it is reached before the process dies."""
    is_alone: bool = True
    """Whether it is the only node, so that nobody else knows what it forgets."""
    evidence_bytes: int = 10
    """How large each decision is: large ones fill files of the log."""
    is_behind: bool = False
    """Whether it starts so far behind the others that it is sent a snapshot."""

    @property
    def name(self) -> str:
        """Short and unique."""
        who = "alone" if self.is_alone else "behind" if self.is_behind else "follower"
        size = " large" if self.evidence_bytes > 1000 else ""
        return f"{who} {' '.join(self.points)}{size}"


_LARGE = 100_000
_ONCE = [
    RaftCase((f"{point}#{count}",))
    for point in ("raft_log:written", "raft_log:synced", "segment:written")
    for count in (1, 2, 3, 4, 30)
]
_SNAPSHOTS = [RaftCase((f"raft_snapshot:named#{count}",)) for count in (1, 2, 3)]
_FIRST_FILE = [RaftCase((f"{point}#1",)) for point in ("segment:headed", "segment:named")]
_FULL_FILES = [
    RaftCase((f"{point}#{count}",), evidence_bytes=_LARGE)
    for point, count in (
        ("segment:marked", 1),
        ("segment:full", 1),
        ("segment:headed", 2),
        ("segment:named", 2),
        ("segment:removed", 1),
    )
]
_AGAIN = [
    RaftCase(points)
    for points in (
        ("raft_log:written#20", "raft_log:written#1", "raft_log:synced#1"),
        ("raft_log:synced#9", "raft_log:written#2", "raft_log:written#3"),
        ("raft_snapshot:named#1", "raft_snapshot:named#1", "raft_log:written#5"),
        ("segment:headed#1", "segment:named#1", "raft_log:written#1"),
    )
]
_OF_THREE = [
    RaftCase((f"{point}#{count}",), is_alone=False)
    for point in ("raft_log:written", "raft_log:synced")
    for count in (1, 3, 25)
] + [
    RaftCase(("raft_snapshot:named#1", "raft_snapshot:named#1"), is_alone=False),
    RaftCase(("raft_snapshot:named#1",), is_alone=False, is_behind=True),
    RaftCase(("raft_log:written#2",), is_alone=False, is_behind=True),
    RaftCase(("raft_log:synced#2",), is_alone=False, is_behind=True),
]

CASES = [*_ONCE, *_SNAPSHOTS, *_FIRST_FILE, *_FULL_FILES, *_AGAIN, *_OF_THREE]
