"""What would be done with a request, and why: the answer of `CoordinationService.explain`.

Plain data made from the engine's tuple. Invariant: it goes by the same rules as a request that is
let in; nothing is asked of any store.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ._views.model import Facts, Table, View
from ._views.viewed import Viewed

_PARTS = ("store", "role", "operations")


@dataclass(frozen=True)
class StorePart:
    """What one store would be asked.

    `role` is "last resource" (its commit decides), "prepared", "only reads", "nothing to do", or
    "steps" where nobody prepares.
    """

    store: str
    role: str
    operations: int


@dataclass(frozen=True)
class CoordinationPlan(Viewed):
    """How a request would be coordinated.

    `plan` is "read_only", "one_phase", "last_resource" or "two_phase"; for a coordination by steps
    it is the type. `locks` are taken first, all or none, such as "exclusive payments/order-7".
    """

    coordination_id: str
    plan: str
    why: str
    stores: tuple[StorePart, ...]
    locks: tuple[str, ...]

    @classmethod
    def from_engine(
        cls,
        coordination_id: str,
        told: tuple[str, str, list[tuple[str, str, int]], list[str]],
    ) -> CoordinationPlan:
        """Make it of the engine's tuple."""
        plan, why, stores, locks = told
        return cls(
            coordination_id, plan, why, tuple(StorePart(*part) for part in stores), tuple(locks)
        )

    @property
    def last_resource(self) -> str | None:
        """The store whose commit would be the decision, None where there is none."""
        named = (part.store for part in self.stores if part.role == "last resource")
        return next(named, None)

    def _view(self) -> View:
        facts: list[tuple[str, object]] = [
            ("coordination", self.coordination_id),
            ("plan", self.plan.replace("_", " ")),
            ("why", self.why),
        ]
        if self.locks:
            facts.append(("locks", ", ".join(self.locks)))
        rows = [(part.store, part.role, part.operations) for part in self.stores]
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        return View("", data, (Facts(facts), Table("", _PARTS, rows)))

    def __str__(self) -> str:
        return self.to_text()
