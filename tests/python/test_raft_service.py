"""A coordination service whose decisions are those of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ledger import Ledger, request
from raft_cluster import free_ports
from unanimity import CoordinationService, RaftConsensusService

Make = Callable[..., CoordinationService]
Ledgers = dict[str, Ledger]


def _node(kind: type[RaftConsensusService] = RaftConsensusService) -> RaftConsensusService:
    [port] = free_ports(1)
    return kind("a", [f"a=127.0.0.1:{port}"], 200, 40)


def test_decisions_are_agreed_there_first_and_the_service_starts_the_node(
    make_service: Make, ledgers: Ledgers
) -> None:
    async def scenario() -> None:
        raft = _node()
        async with make_service(ledgers, consensus_service=raft) as service:
            assert raft.state != "shutdown"
            result = await service.coordinate_transaction(request("t1"))
            assert result.success, result
            found = await raft.get_consensus_status("t1")
            assert found is not None and found["decision"] == "COMMIT"
            assert not await raft.propose_coordination_decision("t1", "ABORT", {})
        await raft.close()

    asyncio.run(scenario())


def test_a_decision_that_stands_there_is_followed(make_service: Make, ledgers: Ledgers) -> None:
    async def scenario() -> None:
        async with _node() as raft:
            assert await raft.propose_coordination_decision("t1", "ABORT", {"by": "somebody"})
            async with make_service(ledgers, consensus_service=raft) as service:
                result = await service.coordinate_transaction(request("t1"))
                assert not result.success
            assert all(ledger.asked("commit") == 0 for ledger in ledgers.values())

    asyncio.run(scenario())


def test_the_engine_goes_past_our_python_face_but_not_past_a_subclass(
    make_service: Make, ledgers: Ledgers, tmp_path: Any
) -> None:
    proposed: list[str] = []

    class Counting(RaftConsensusService):
        async def propose_coordination_decision(
            self, coordination_id: str, decision: str, evidence: dict[str, Any]
        ) -> bool:
            proposed.append(coordination_id)
            return await super().propose_coordination_decision(coordination_id, decision, evidence)

    async def scenario() -> None:
        async with _node() as raft, _node(Counting) as counting:
            # Only on the instance: if the engine asked Python, it would find this.
            async def never(coordination_id: str, decision: str, evidence: Any) -> bool:
                raise AssertionError("the engine went through Python")

            raft.propose_coordination_decision = never  # type: ignore[method-assign]
            async with make_service(ledgers, consensus_service=raft) as service:
                assert (await service.coordinate_transaction(request("t1"))).success
            assert proposed == []
            more = {"journal": tmp_path / "other.db", "consensus_service": counting}
            async with make_service(ledgers, **more) as service:
                assert (await service.coordinate_transaction(request("t2"))).success
            assert proposed == ["t2"]

    asyncio.run(scenario())
