"""A trip is three bookings and a payment, each at somebody else: all of them stand, or none does.

    python examples/trip_booking.py [WORK]

WORK gets what the companies have booked and the journal (default: ./trips). Run it twice, or kill
it in the middle: the next run finishes what was open. Of three trips one succeeds, in spite of a
bank that is slow to answer. The card for another is declined, and for the last the hotel has no
room: what was booked for these is cancelled again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from unanimity import CoordinationService, OperationRequest, Participant, Permanent, Saga


class Company:
    """Somebody who takes bookings: a row for each, found again by its key."""

    def __init__(self, path: Path, places: int) -> None:
        self.path, self.places = path, places
        with self.rows() as rows:
            rows.execute("CREATE TABLE IF NOT EXISTS booking (key TEXT PRIMARY KEY, who TEXT)")

    @contextmanager
    def rows(self) -> Iterator[sqlite3.Connection]:
        # One for each call, because plain functions run in several threads.
        with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            yield connection

    def book(self, key: str, who: str) -> int:
        """Book once, however often it is asked for the same key; the answer is a number."""
        with self.rows() as rows:
            taken = rows.execute("SELECT count(*) FROM booking WHERE key <> ?", [key]).fetchone()[0]
            if taken >= self.places:
                raise Permanent(f"all {self.places} places are taken")
            rows.execute("INSERT OR IGNORE INTO booking VALUES (?, ?)", [key, who])
            return int(taken) + 1

    def cancel(self, key: str) -> None:
        """Cancel it, if it is there."""
        with self.rows() as rows:
            rows.execute("DELETE FROM booking WHERE key = ?", [key])

    def all(self) -> list[str]:
        with self.rows() as rows:
            return [who for (who,) in rows.execute("SELECT who FROM booking ORDER BY who")]


def key_of(request: OperationRequest) -> str:
    """The same for every try of one step, and for its compensation."""
    return f"{request.transaction_id}/{request.operation_id}"


def travel_companies(airline: Company, hotel: Company) -> tuple[Participant, Participant]:
    flights, hotels = Participant("flights"), Participant("hotels")

    @flights.operation("book")
    def book_flight(request: OperationRequest) -> dict[str, Any]:
        return {"seat": airline.book(key_of(request), request.operation["guest"])}

    @book_flight.compensation
    def cancel_flight(request: OperationRequest) -> None:
        airline.cancel(key_of(request))

    @hotels.operation("reserve")
    def reserve_room(request: OperationRequest) -> dict[str, Any]:
        return {"room": 100 + hotel.book(key_of(request), request.operation["guest"])}

    @reserve_room.compensation
    def free_room(request: OperationRequest) -> None:
        hotel.cancel(key_of(request))

    return flights, hotels


def bank() -> Participant:
    payments = Participant("payments")

    @payments.operation("charge")
    async def charge(request: OperationRequest) -> dict[str, Any]:
        if request.operation["card"] == "declined":
            raise Permanent("the card is declined")
        if request.attempt == 1:
            # Whether a charge that got no answer was made, nobody knows: it is asked for again.
            raise TimeoutError("the bank does not answer")
        return {"charged": request.operation["amount"], "tries": request.attempt}

    return payments


def post_office(letters: list[str]) -> Participant:
    mail = Participant("mail")

    @mail.operation("send")
    async def send(request: OperationRequest) -> None:
        # What earlier steps gave is here, by their ids.
        seat, room = request.context["flight"]["seat"], request.context["room"]["room"]
        letters.append(f"{request.operation['guest']}: seat {seat}, room {room}")

    return mail


def trip(number: int, guest: str, card: str) -> Saga:
    """Flight and room side by side, then the payment; behind it there is no way back."""
    saga = Saga(f"trip-{number}")
    flight = saga.step("flights", "book", {"guest": guest}, id="flight", after=[])
    room = saga.step("hotels", "reserve", {"guest": guest}, id="room", after=[])
    charge = {"amount": 480, "card": card}
    payment = saga.pivot("payments", "charge", charge, id="payment", after=[flight, room])
    saga.step("mail", "send", {"guest": guest}, id="letter", after=[payment])
    return saga


async def main(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    airline, hotel = Company(work / "airline.db", 9), Company(work / "hotel.db", 1)
    letters: list[str] = []
    flights, hotels = travel_companies(airline, hotel)
    stores = {
        "flights": flights,
        "hotels": hotels,
        "payments": bank(),
        "mail": post_office(letters),
    }
    trips = [trip(1, "ann", "declined"), trip(2, "bob", "good"), trip(3, "cid", "good")]
    async with CoordinationService(stores, journal=work / "journal.db") as service:
        for saga in trips:
            await saga.run(service)
            record = await service.describe(saga.coordination_id)
            print(saga.to_text(record), end="\n\n")
            (work / f"{saga.coordination_id}.svg").write_text(saga.to_svg(record))
    print(f"flights: {airline.all()}, rooms: {hotel.all()}")
    print(f"letters: {letters}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("trips")))
