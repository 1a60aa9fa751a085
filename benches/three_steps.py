"""The three steps of W1, the same for us and for every peer: each counts that it ran.

Nothing of the package is imported: the peers have an environment of their own. Invariant: a run
passes only if every saga that ended ran each step once, and no other saga ran any.
"""

from __future__ import annotations

from collections import Counter

NAMES = ("flight", "hotel", "payment")


class Counted:
    """What ran, by step."""

    def __init__(self) -> None:
        """Nothing ran yet."""
        self.runs: dict[str, Counter[int]] = {name: Counter() for name in NAMES}
        self.sagas = 0

    def done(self, name: str, number: int) -> dict[str, object]:
        """Run a step of the saga with this number; its result, small and plain."""
        self.runs[name][number] += 1
        return {"step": name, "number": number}

    def ended(self) -> None:
        """Count a saga whose caller was told that it is done."""
        self.sagas += 1

    def check(self, at_least: int) -> None:
        """Fail where a step ran twice or not at all, or fewer sagas ended than were measured."""
        if self.sagas < at_least:
            raise AssertionError(f"{self.sagas} sagas ended of {at_least} that were measured")
        for name, runs in self.runs.items():
            if len(runs) != self.sagas or runs.total() != self.sagas:
                raise AssertionError(
                    f"step '{name}' ran {runs.total()} times in {len(runs)} sagas of {self.sagas}"
                )
