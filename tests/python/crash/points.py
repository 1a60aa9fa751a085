"""The kill matrix as data: where the process dies, on which path, with which stores.

Every named point of the engine and of the five stores has a row in PLACES; `CASES` multiplies them
out. Invariant: a case's point is reached by its path, else the test that runs it fails.
"""

from __future__ import annotations

from dataclasses import dataclass

from crash.world import STORES

_STEPS = {
    "store_prepare": "before anything is staged",
    "store_content": "contents staged, not yet marked",
    "store_torn_stage": "half of the staging record written",
    "store_unmarked": "all staged, the mark not in place",
    "store_staged": "staged, before the vote",
    "store_commit": "before the commit",
    "store_torn_apply": "half of the commit's record written",
    "store_rename": "one file in place, the next not",
    "store_renamed": "all files in place, not yet marked",
    "store_committed": "committed, before the answer",
    "store_forget": "before markers are removed",
    "store_forgotten": "after markers were removed",
    "store_abort": "before it is undone",
    "store_torn_drop": "half of the abort's record written",
    "store_discard": "the mark gone, the contents not",
    "store_aborted": "undone, before the answer",
}
_BOTH = ("store_prepare", "store_staged")
_FORWARD = ("store_commit", "store_committed")
_ABORT = ("store_abort", "store_aborted")
_OWN: dict[str, dict[str, tuple[str, ...]]] = {
    "rows": {"forward": (), "abort": ()},
    "files": {
        "forward": (
            "store_content",
            "store_unmarked",
            "store_rename",
            "store_renamed",
            "store_forget",
        ),
        "abort": ("store_discard",),
    },
    "postgres": {"forward": ("store_forget", "store_forgotten"), "abort": ()},
    "redis": {"forward": ("store_forget", "store_forgotten"), "abort": ()},
    "index": {"forward": ("store_torn_stage", "store_torn_apply"), "abort": ("store_torn_drop",)},
}
_LOCKS = {
    "before_take": "before locks are asked for",
    "after_take": "locks granted, nothing begun",
    "before_release": "before locks are released",
    "after_release": "the answer to a release is here",
}
_RECORDS = {
    "before_record": "before it is written",
    "before_sync": "written, not on disk",
    "after_record": "on disk, before anybody hears",
}


@dataclass(frozen=True)
class Case:
    """One kill: the point, how often it is passed before, the path, the Python store."""

    point: str
    path: str
    index: str = "index"
    count: int = 3
    first: str = ""
    """A point at which an earlier process died, so that this one dies while it recovers."""
    is_strong: bool = False
    """Whether locks of a manager that processes share are taken."""

    @property
    def name(self) -> str:
        """Short and unique."""
        strong = "strong " if self.is_strong else ""
        return f"{strong}{self.path} {self.index} {self.point} {self.count}"

    @property
    def has_long_ids(self) -> bool:
        """Whether ids are too long for the name of a prepared transaction.

        PostgreSQL has markers to remove only then: otherwise a receipt is kept with the decision.
        """
        return self.point in ("store_forget:postgres", "store_forgotten:postgres")

    @property
    def refuser(self) -> str:
        """Who votes ABORT: never the store whose own point it is, because it keeps nothing."""
        if self.path != "abort":
            return ""
        subject = self.point.rpartition(":")[2]
        return "files" if subject == "rows" else "rows"


def _paths(store: str) -> list[tuple[str, str]]:
    own = _OWN[store]
    forward = [*_BOTH, *_FORWARD, *own["forward"]]
    return [("forward", step) for step in forward] + [
        ("abort", step) for step in (*_BOTH, *_ABORT, *own["abort"])
    ]


def _of_stores() -> list[Case]:
    cases = []
    for store in STORES:
        for path, step in _paths(store):
            # Markers are removed rarely: once is rare enough.
            count = 1 if step.startswith("store_forg") else 3
            cases.append(Case(f"{step}:{store}", path, count=count))
        for when in ("before_ask", "after_ask"):
            cases += [
                Case(f"{when}:{ask}:{store}", path)
                for path, ask in (
                    ("forward", "prepare"),
                    ("forward", "commit"),
                    ("abort", "prepare"),
                    ("abort", "abort"),
                )
            ]
    return cases


def _of_records() -> list[Case]:
    cases = []
    for when in _RECORDS:
        for path in ("forward", "abort"):
            cases += [Case(f"{when}:{kind}", path) for kind in ("begin", "decision", "end")]
        # A store that cannot list: the begin record must be on disk before it is asked.
        cases.append(Case(f"{when}:begin", "forward", "blind"))
        cases.append(Case(f"{when}:decision", "forward", "blind"))
        cases.append(Case(f"{when}:heuristic", "heuristic", "refusing", 2))
        for first in ("after_record:decision#3", "after_ask:prepare:postgres#3"):
            path = "forward, again in recovery"
            cases.append(Case(f"{when}:adopted", path, count=1, first=first))
    return cases


def _of_recovery() -> list[Case]:
    """Killed twice: first in the middle, then while the next process finishes it."""
    path = "forward, again in recovery"
    decided = [
        Case(f"{point}:{store}", path, count=1, first="after_record:decision#3")
        for store in STORES
        for point in ("store_commit", "store_committed", "before_ask:commit")
    ]
    undecided = [
        Case(f"store_aborted:{store}", path, count=1, first="before_record:decision#3")
        for store in STORES
    ]
    # A store that lists, of which another journal's work may be a part, and that is fast.
    hasty = [
        Case("store_staged:index", f"forward, {article} {index} store", index, count)
        for article, index in (("a", "hasty"), ("an", "exclusive"))
        for count in range(1, 7)
    ]
    return decided + undecided + hasty


def _of_locks() -> list[Case]:
    """Coordinations that wait for each other: killed at a lock, and while they hold some."""
    held = ("before_record:begin", "after_record:begin", "before_record:decision")
    ends = ("after_record:decision", "before_record:end", "after_record:end")
    places = [*(f"{when}:locks" for when in _LOCKS), *held, *ends]
    once = [
        Case(point, path, is_strong=True, count=5)
        for path in ("forward", "abort")
        for point in places
    ]
    path = "forward, again in recovery"
    twice = [
        Case(f"{when}:locks", path, count=1, first=f"{first}#3", is_strong=True)
        for when in _LOCKS
        for first in ("after_record:decision", "after_ask:prepare:files")
    ]
    return once + twice


CASES = [*_of_records(), *_of_stores(), *_of_recovery(), *_of_locks()]


def describe(point: str) -> str:
    """What has and has not happened when a process dies there, for the printed table."""
    stage, _, subject = point.partition(":")
    if stage in _RECORDS:
        return f"{subject} record: {_RECORDS[stage]}"
    if stage in ("before_ask", "after_ask"):
        ask = subject.partition(":")[0]
        return f"before {ask} is asked" if stage == "before_ask" else f"the answer to {ask} is here"
    return _LOCKS[stage] if stage in _LOCKS else _STEPS[stage]
