"""A node of a cluster with a coordination service over shared stores, in a process of its own.

Not a test: `test_raft_journal` starts it. It is told what to do as `raft_node` is. Invariant: the
stores are those of every other such process: a folder of files and a database.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from raft_node import Told, die_with_parent, listen_to
from unanimity import (
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    RaftConsensusService,
)
from unanimity.stores import FileStore, PostgresStore


class ToldService(Told):
    """A node that also coordinates."""

    def __init__(self, raft: RaftConsensusService, root: str, dsn: str) -> None:
        super().__init__(raft)
        stores = {"files": FileStore(root), "rows": PostgresStore(dsn, "rows")}
        self._service = CoordinationService(stores, raft)
        self.verbs["serve"] = self._service.start
        self.verbs["put"] = self._put
        self.verbs["outcome"] = self._outcome
        self.verbs["abort"] = self._service.abort_coordination
        self.verbs["history"] = self._history

    async def _put(self, name: str, refused: bool = False) -> dict[str, Any]:
        statement = "INSERT INTO facts (name) VALUES ($1)"
        operations: list[dict[str, Any]] = [
            {"store": "files", "type": "put", "key": name, "value": name},
            {
                "store": "rows",
                "type": "execute",
                "statement": statement,
                "parameters": [name],
                "expect_rows": 2 if refused else 1,
            },
        ]
        result = await self._service.coordinate_transaction(
            CoordinationRequest(
                name,
                CoordinationType.TWO_PHASE_COMMIT,
                ["files", "rows"],
                operations,
                30,
                "session",
                {},
            )
        )
        return {"outcome": result.outcome.value, "error": result.error_message}

    async def _outcome(self, name: str) -> dict[str, Any] | None:
        result = await self._service.get_coordination_status(name)
        if result is None:
            return None
        return {"outcome": result.outcome.value, "state": result.final_state.value}

    async def _history(self) -> list[str]:
        return [each.coordination_id for each in await self._service.history()]


if __name__ == "__main__":
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    options = json.loads(sys.argv[1])
    root, dsn = options.pop("root"), options.pop("dsn")
    asyncio.run(listen_to(lambda: ToldService(RaftConsensusService(**options), root, dsn)))
