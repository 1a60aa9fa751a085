"""What a consensus service is: who makes a decision stand. The interface only.

Invariants: `propose_coordination_decision` answers True exactly when that decision is, for ever,
this coordination's decision; a False says nothing, and the standing decision is then read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class IConsensusService(ABC):
    """Makes the decisions of coordinations stand."""

    @abstractmethod
    async def propose_coordination_decision(
        self, coordination_id: str, decision: str, evidence: dict[str, Any]
    ) -> bool:
        """Propose "COMMIT" or "ABORT"; True when it stands."""

    @abstractmethod
    async def get_consensus_status(self, coordination_id: str) -> dict[str, Any] | None:
        """Read the standing decision: a dict with the key "decision"; None where none stands."""
