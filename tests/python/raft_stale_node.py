"""A node that answers reads from what it has itself, without asking who leads: wrong on purpose.

Not a test: `test_raft_faults` starts it, to see that such an answer is found.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from raft_node import Told, die_with_parent, listen_to
from unanimity import RaftConsensusService


class ToldStale(Told):
    """Reads at once."""

    def __init__(self, raft: RaftConsensusService) -> None:
        super().__init__(raft)
        self.verbs["read"] = self._read

    async def _read(self, coordination_id: str) -> dict[str, Any] | None:
        for entry in self._raft.log_entries:
            if entry.coordination_id == coordination_id:
                return {"decision": entry.decision}
        return None


if __name__ == "__main__":
    die_with_parent()
    given = json.loads(sys.argv[1])
    asyncio.run(listen_to(lambda: ToldStale(RaftConsensusService(**given))))
