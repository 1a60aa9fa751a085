"""W1: a durable saga of three Python steps that its caller waits for.

Ours: three async operations of one `Participant`, each with a compensation, run by the service
over a SQLite journal with fsync. Before a step runs its intent is on disk, and its result before
the next one runs. Nothing is in the steps but their counting. The peers have modules of their own
(`w1_dbos`, `w1_absurd`, `w1_restate`), with the same three steps.
"""

from __future__ import annotations

from measure import Case, Row, main, run_callers
from plain_stores import coordination_id
from three_steps import NAMES, Counted

from unanimity import (
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    OperationRequest,
    Participant,
)


def saga_request(number: int) -> CoordinationRequest:
    """Ask for the three steps, one after the other."""
    return CoordinationRequest(
        coordination_id(number),
        CoordinationType.SAGA_ORCHESTRATION,
        ["trips"],
        [{"store": "trips", "type": name, "number": number} for name in NAMES],
        30,
        "session",
        {},
    )


def three_operations(counted: Counted) -> Participant:
    """A participant with the three operations; none of its compensations should be called."""
    trips = Participant("trips")

    def register(name: str) -> None:
        @trips.operation(name)
        async def run(request: OperationRequest) -> object:
            return counted.done(name, request.operation["number"])

        @run.compensation
        async def undo(request: OperationRequest) -> None:
            raise AssertionError(f"saga {request.transaction_id} turned round")

    for name in NAMES:
        register(name)
    return trips


async def ours(case: Case) -> Row:
    """A saga of the service for each operation of a caller."""
    counted = Counted()

    async def saga(number: int) -> None:
        result = await service.coordinate_transaction(saga_request(number))
        if not result.success:
            raise AssertionError(result.error_message)
        counted.ended()

    stores = {"trips": three_operations(counted)}
    async with CoordinationService(stores, journal=case.folder / "journal.db") as service:
        row = await run_callers(case, saga)
    counted.check(row["operations"])
    return row


if __name__ == "__main__":
    main({"unanimity": ours})
