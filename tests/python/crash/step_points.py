"""The kill matrix of steps as data: where the process dies, in which kind, on which path.

Invariant: a case's point is reached by its path, else the test that runs it fails.
"""

from __future__ import annotations

from dataclasses import dataclass

from crash.step_world import PLACES

SAGA, EVENTUAL = "saga_orchestration", "eventual_consistency"
_RECORDS = {
    "before_record": "before it is written",
    "before_sync": "written, not on disk",
    "after_record": "on disk, before anybody hears",
}
_STORE = {
    "store_step": "before its transaction",
    "store_step_done": "effect and barrier done, not committed",
    "store_step_staged": "the content staged, not yet recorded",
    "store_step_marked": "recorded, the content not in its place",
    "store_step_renamed": "in its place, the folder not on disk",
    "store_step_committed": "committed, before the answer",
}
_OWN = {
    "rows": ("store_step", "store_step_done", "store_step_committed"),
    "files": (
        "store_step",
        "store_step_staged",
        "store_step_marked",
        "store_step_renamed",
        "store_step_committed",
    ),
    "redis": ("store_step", "store_step_committed"),
    "postgres": ("store_step", "store_step_done", "store_step_committed"),
}


@dataclass(frozen=True)
class StepCase:
    """One kill: the point, how often it is passed before, the kind, the path."""

    point: str
    kind: str = SAGA
    path: str = "forward"
    count: int = 3
    first: str = ""
    """A point at which an earlier process died, so that this one dies while it recovers."""

    @property
    def name(self) -> str:
        """Short and unique."""
        return f"{self.kind} {self.path} {self.point} {self.count} {self.first}".strip()


def _of_records() -> list[StepCase]:
    kinds = {
        (SAGA, "forward"): ("begin", "step_started", "step_done", "decision", "end"),
        (SAGA, "undone"): ("step_failed", "decision", "step_started", "step_done", "end"),
        (EVENTUAL, "forward"): ("begin", "step_done", "end"),
    }
    return [
        StepCase(f"{when}:{record}", kind, path)
        for (kind, path), records in kinds.items()
        for record in records
        for when in _RECORDS
    ]


def _of_asks() -> list[StepCase]:
    cases = []
    for when in ("before_ask", "after_ask"):
        for place in PLACES:
            cases.append(StepCase(f"{when}:execute:{place}"))
            cases.append(StepCase(f"{when}:execute:{place}", EVENTUAL))
        for place in PLACES[:-1]:
            cases.append(StepCase(f"{when}:compensate:{place}", path="undone"))
    return cases


def _of_stores() -> list[StepCase]:
    cases = []
    for place, points in _OWN.items():
        for point in points:
            cases.append(StepCase(f"{point}:{place}"))
            # The second pass is the undoing: only the last store refuses, and undoes nothing.
            if place != "postgres":
                cases.append(StepCase(f"{point}:{place}", path="undone", count=2))
    return cases


def _of_recovery() -> list[StepCase]:
    return [
        StepCase("after_ask:execute:rows", first="after_record:step_done#6", count=1),
        StepCase("before_record:step_done", first="after_ask:execute:files#3", count=1),
        StepCase("after_record:adopted", first="after_record:begin#3", count=1),
        StepCase(
            "after_ask:compensate:rows", path="undone", first="after_record:decision#3", count=1
        ),
        StepCase(
            "before_ask:compensate:index",
            path="undone",
            first="after_ask:compensate:rows#3",
            count=1,
        ),
    ]


CASES = [*_of_records(), *_of_asks(), *_of_stores(), *_of_recovery()]


def describe(point: str) -> str:
    """Say in words where that is."""
    stage, _, subject = point.partition(":")
    if stage in _RECORDS:
        return f"{subject.replace('_', ' ')} record: {_RECORDS[stage]}"
    if stage in _STORE:
        return f"store {subject}: {_STORE[stage]}"
    work, _, place = subject.partition(":")
    verb = "do" if work == "execute" else "undo"
    when = "before it is asked" if stage == "before_ask" else "its answer is here"
    return f"store {place} is to {verb} its step: {when}"
