"""A consensus service that a user wrote: asked before every decision, and followed.

Invariant: what it does not answer is unknown, never abort; and a decision that stands there stands
here, also after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ledger import Ledger, request
from unanimity import CoordinationService, Outcome, TransactionState

Make = Callable[..., CoordinationService]
Ledgers = dict[str, Ledger]


class Agreement:
    """Keeps first decisions, and fails as it is told."""

    def __init__(self) -> None:
        self.standing: dict[str, str] = {}
        self.proposed: list[tuple[str, str, int]] = []
        self.ledgers: Ledgers = {}
        self.answer: Any = True
        """What a proposal gives instead: False, None, or an exception to raise."""
        self.keeps = True
        """Whether a proposal is kept although its answer is another."""
        self.reads: BaseException | None = None
        """What reading raises."""
        self.hang: asyncio.Event | None = None
        self.asked = asyncio.Event()

    async def propose_coordination_decision(
        self, coordination_id: str, decision: str, evidence: dict[str, Any]
    ) -> bool:
        commits = sum(ledger.asked("commit") for ledger in self.ledgers.values())
        self.proposed.append((coordination_id, decision, commits))
        self.asked.set()
        if self.hang is not None:
            await self.hang.wait()
        if self.keeps:
            self.standing.setdefault(coordination_id, decision)
        if isinstance(self.answer, BaseException):
            raise self.answer
        if self.answer is not True:
            return self.answer  # type: ignore[no-any-return]
        return self.standing.get(coordination_id) == decision

    async def get_consensus_status(self, coordination_id: str) -> dict[str, Any] | None:
        if self.reads is not None:
            raise self.reads
        decision = self.standing.get(coordination_id)
        return None if decision is None else {"decision": decision, "evidence": {}}


def test_it_is_asked_before_any_store_is_told_to_commit(
    make_service: Make, ledgers: Ledgers
) -> None:
    agreement = Agreement()
    agreement.ledgers = ledgers

    async def scenario() -> None:
        async with make_service(ledgers, consensus_service=agreement) as service:
            assert (await service.coordinate_transaction(request("t1"))).success

    asyncio.run(scenario())
    assert agreement.proposed == [("t1", "COMMIT", 0)]


def test_a_false_without_a_standing_decision_becomes_an_abort(
    make_service: Make, ledgers: Ledgers
) -> None:
    class Refusing(Agreement):
        async def propose_coordination_decision(
            self, coordination_id: str, decision: str, evidence: dict[str, Any]
        ) -> bool:
            self.keeps = decision == "ABORT"
            self.answer = self.keeps
            return await super().propose_coordination_decision(coordination_id, decision, evidence)

    agreement = Refusing()

    async def scenario() -> None:
        async with make_service(ledgers, consensus_service=agreement) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert result.outcome is Outcome.ABORTED
            await service.wait_for("t1", timeout=20)

    asyncio.run(scenario())
    assert [decision for _, decision, _ in agreement.proposed] == ["COMMIT", "ABORT"]
    assert ledgers["left"].staged == ledgers["left"].values == {}


def test_a_false_with_a_standing_decision_follows_what_stands(
    make_service: Make, ledgers: Ledgers
) -> None:
    agreement = Agreement()
    agreement.standing["t1"] = "ABORT"

    async def scenario() -> None:
        async with make_service(ledgers, consensus_service=agreement) as service:
            result = await service.coordinate_transaction(request("t1"))
            assert result.outcome is Outcome.ABORTED
            agreement.answer = False
            kept = await service.coordinate_transaction(request("t2"))
            assert kept.outcome is Outcome.COMMITTED
            await service.wait_for("t1", timeout=20)

    asyncio.run(scenario())
    assert ledgers["left"].values == ledgers["right"].values == {"k": 1}
    assert ledgers["left"].asked("commit") == 1


def test_an_answer_that_is_lost_is_read_again_and_not_taken_for_abort(
    make_service: Make, ledgers: Ledgers
) -> None:
    for answer in (ConnectionError("no majority"), None, "yes"):
        agreement = Agreement()
        agreement.answer = answer

        async def scenario(agreement: Agreement = agreement) -> None:
            journal = "memory:"
            async with make_service(
                ledgers, consensus_service=agreement, journal=journal
            ) as service:
                result = await service.coordinate_transaction(request("t1"))
                assert result.outcome is Outcome.COMMITTED, result.error_message

        asyncio.run(scenario())


def test_without_an_answer_it_is_in_doubt_until_the_service_is_back(
    make_service: Make, ledgers: Ledgers
) -> None:
    agreement = Agreement()
    agreement.answer = agreement.reads = ConnectionError("no majority")

    async def scenario() -> None:
        async with make_service(ledgers, consensus_service=agreement) as service:
            result = await service.coordinate_transaction(request("t1", timeout_seconds=0.5))
            assert (result.outcome, result.final_state) == (
                Outcome.UNKNOWN,
                TransactionState.PREPARED,
            )
            assert ledgers["left"].asked("commit") == ledgers["left"].asked("abort") == 0
            assert set(ledgers["left"].staged) == {"t1"}
            waiting = asyncio.create_task(service.wait_for("t1", timeout=30))
            agreement.answer, agreement.reads = True, None
            ended = await waiting
            assert ended.final_state is TransactionState.COMMITTED

    asyncio.run(scenario())
    assert ledgers["left"].values == ledgers["right"].values == {"k": 1}


def test_one_that_hangs_holds_the_caller_no_longer_than_his_timeout(
    make_service: Make, ledgers: Ledgers
) -> None:
    agreement = Agreement()

    async def scenario() -> None:
        hang = agreement.hang = asyncio.Event()
        async with make_service(ledgers, consensus_service=agreement) as service:
            began = asyncio.get_running_loop().time()
            result = await service.coordinate_transaction(request("t1", timeout_seconds=0.5))
            assert asyncio.get_running_loop().time() - began < 5
            assert result.outcome is Outcome.UNKNOWN
            hang.set()
            ended = await service.wait_for("t1", timeout=30)
            assert ended.final_state is TransactionState.COMMITTED

    asyncio.run(scenario())
    assert ledgers["left"].values == {"k": 1}


def test_recovery_reads_what_stands_and_follows_it(make_service: Make, ledgers: Ledgers) -> None:
    agreement = Agreement()
    agreement.answer = agreement.reads = ConnectionError("no majority")

    async def first() -> None:
        service = make_service(ledgers, consensus_service=agreement)
        for name in ("kept", "lost"):
            agreement.keeps = name == "kept"
            result = await service.coordinate_transaction(request(name, timeout_seconds=0.3))
            assert result.outcome is Outcome.UNKNOWN
        await service.close(timeout=0.1)

    async def second() -> None:
        agreement.answer, agreement.reads, agreement.keeps = True, None, True
        async with make_service(ledgers, consensus_service=agreement) as service:
            kept = await service.wait_for("kept", timeout=30)
            lost = await service.wait_for("lost", timeout=30)
            assert kept.final_state is TransactionState.COMMITTED
            assert lost.final_state is TransactionState.ABORTED

    asyncio.run(first())
    asyncio.run(second())
    assert ledgers["left"].staged == ledgers["right"].staged == {}
    assert ledgers["left"].values == ledgers["right"].values == {"k": 1}
    assert agreement.standing == {"kept": "COMMIT", "lost": "ABORT"}
