"""The saga builder: the request it makes, what it refuses beforehand, how it draws itself."""

from __future__ import annotations

import random
import re
from base64 import b64decode
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import pytest

from engine_rows import row
from unanimity import (
    CoordinationRecord,
    CoordinationRequest,
    CoordinationResult,
    CoordinationType,
    InvalidRequest,
    Participant,
    Saga,
    TransactionState,
)
from unanimity._saga_picture import _ways
from unanimity.stores import MemoryStore

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "</text><script>alert(1)</script>\x1b[31m\n\"'&\u202e"


@dataclass
class Record:
    """What `describe` gives, as far as pictures read it."""

    coordination_id: str
    state: TransactionState
    steps: list[Any]
    error_message: str | None = None


def trip() -> Saga:
    saga = Saga("trip-42")
    flight = saga.step(
        "flights", "book", {"seat": "12A"}, id="flight", compensation={"type": "cancel"}
    )
    hotel = saga.step("hotels", "reserve", id="hotel", after=[], compensation={"type": "release"})
    car = saga.step("cars", "rent", id="car", after=[flight], compensation=None, max_retries=0)
    saga.pivot("payments", "charge", {"amount": 90}, id="pay", after=[flight, hotel, car])
    saga.step("mail", "send", id="mail", timeout_seconds=2.5)
    saga.step("tickets", "print", id="print", after=["pay", "hotel"])
    return saga


def refused(saga: Saga, stores: dict[str, Any] | None = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        saga.check(stores)
    assert caught.value.coordination_id == saga.coordination_id
    with_the_id = f"saga '{saga.coordination_id}': "
    assert str(caught.value).startswith(with_the_id)
    return str(caught.value)[len(with_the_id) :]


# ---- the request ---------------------------------------------------------------------------


def test_the_request_says_what_was_said() -> None:
    request = trip().request(timeout_seconds=60, consistency_level="session", metadata={"by": "me"})
    assert isinstance(request, CoordinationRequest)
    assert request.coordination_type is CoordinationType.SAGA_ORCHESTRATION
    assert request.participating_stores == [
        "flights", "hotels", "cars", "payments", "mail", "tickets"
    ]  # fmt: skip
    assert (request.coordination_id, request.timeout_seconds) == ("trip-42", 60)
    assert (request.consistency_level, request.metadata) == ("session", {"by": "me"})
    assert request.operations == [
        {"store": "flights", "type": "book", "operation_id": "flight", "seat": "12A",
         "compensation": {"type": "cancel"}},
        {"store": "hotels", "type": "reserve", "operation_id": "hotel", "depends_on": [],
         "compensation": {"type": "release"}},
        {"store": "cars", "type": "rent", "operation_id": "car", "depends_on": ["flight"],
         "compensation": None, "max_retries": 0},
        {"store": "payments", "type": "charge", "operation_id": "pay", "amount": 90,
         "depends_on": ["flight", "hotel", "car"], "pivot": True},
        {"store": "mail", "type": "send", "operation_id": "mail", "timeout_seconds": 2.5},
        {"store": "tickets", "type": "print", "operation_id": "print",
         "depends_on": ["pay", "hotel"]},
    ]  # fmt: skip


def test_a_request_by_default_is_strong_and_its_steps_have_the_engines_ids() -> None:
    saga = Saga("s1")
    step = saga.step("a", "x", compensation=None)
    request = saga.request()
    assert step.operation_id == request.operations[0]["operation_id"] == "s1:0"
    assert (request.timeout_seconds, request.consistency_level, request.metadata) == (
        300,
        "strong",
        {},
    )
    assert Saga().coordination_id != Saga().coordination_id


def test_what_is_changed_in_a_request_does_not_change_the_saga() -> None:
    saga = trip()
    saga.request().operations[0]["seat"] = "1A"
    saga.operations[0]["seat"] = "1B"
    assert saga.request().operations[0]["seat"] == "12A"


# ---- the check -----------------------------------------------------------------------------


def test_a_good_saga_is_not_refused() -> None:
    trip().check()


def test_a_saga_without_steps_is_refused() -> None:
    assert refused(Saga("s")) == "it has no steps; add one with step()"


def test_a_circle_is_refused_and_told_step_by_step() -> None:
    saga = Saga("s")
    saga.step("a", "x", id="first", after=[])
    saga.step("a", "x", id="one", after=["three", "first"])
    saga.step("a", "x", id="two")
    saga.step("a", "x", id="three")
    saga.step("a", "x", id="behind")
    assert refused(saga) == (
        "its steps wait for each other: 'one' comes after 'three' comes after 'two' comes after "
        "'one'; leave one of these out"
    )
    itself = Saga("s")
    itself.step("a", "x", id="one", after=["one"])
    assert "'one' comes after 'one'" in refused(itself)


def test_an_unknown_step_to_come_after_is_refused_with_those_there_are() -> None:
    saga = Saga("s")
    saga.step("a", "x", id="one", after=["tow"])
    saga.step("a", "x", id="two")
    assert refused(saga) == (
        "step 'one' comes after 'tow', which is no step of it; the steps are 'one', 'two'"
    )


def test_two_steps_of_one_id_are_refused() -> None:
    saga = Saga("s")
    saga.step("a", "x", id="one")
    saga.step("a", "x", id="one")
    assert refused(saga) == "two steps have the id 'one'; give each its own"


def test_two_pivots_are_refused() -> None:
    saga = Saga("s")
    saga.pivot("a", "x", id="one")
    saga.pivot("a", "x", id="two")
    assert "'one' and 'two' are pivots; a saga has one point of no return" in refused(saga)


def test_a_step_that_nobody_can_undo_is_refused_where_the_store_is_known() -> None:
    payments = Participant("payments")
    payments.operation("charge")(lambda request: None).compensation(lambda request: None)
    payments.operation("note")(lambda request: None)
    stores = {"payments": payments, "memory": MemoryStore()}
    saga = Saga("s")
    saga.step("payments", "charge")
    saga.step("memory", "put", {"key": "k", "value": 1}, compensation={"type": "delete"})
    saga.check(stores)
    saga.step("payments", "note", id="note")
    saga.check()
    assert refused(saga, stores) == (
        "step 'note' (payments.note) may have to be undone, and its store does not know how; give "
        "it a compensation, or compensation=None where there is nothing to undo"
    )
    other = Saga("s")
    other.step("memory", "put", {"key": "k", "value": 1})
    other.step("payments", "charge", compensation={"type": "refnd"})
    assert "step 's:0' (memory.put) may have to be undone" in refused(other, stores)
    assert "is undone by 'refnd', and its store has only 'charge', 'note'" in refused(other, stores)
    shapeless = Saga("s")
    shapeless.step("payments", "charge", compensation={"amount": 3})
    assert "has the compensation {'amount': 3}, which has no 'type'" in refused(shapeless)


def test_only_what_may_be_done_before_the_pivot_needs_a_way_back() -> None:
    stores = {"memory": MemoryStore()}
    saga = Saga("s")
    saga.step("memory", "put", id="before", compensation=None)
    saga.pivot("memory", "put", id="pivot")
    saga.step("memory", "put", id="behind")
    saga.step("memory", "put", id="far behind")
    saga.check(stores)
    saga.step("memory", "put", id="beside", after=["before"])
    assert refused(saga, stores).startswith("step 'beside' (memory.put) may have to be undone")


def test_what_is_said_badly_is_refused_where_it_is_written() -> None:
    saga, other = Saga("s"), Saga("o")
    step = other.step("a", "x")
    with pytest.raises(InvalidRequest, match="is of another saga"):
        saga.step("a", "x", after=[step])
    with pytest.raises(InvalidRequest, match="give a list of steps"):
        saga.step("a", "x", after="one")
    with pytest.raises(InvalidRequest, match="'depends_on' among its fields"):
        saga.step("a", "x", {"depends_on": []})
    assert repr(saga) == "Saga('s', 0 steps)"


# ---- pictures ------------------------------------------------------------------------------


def test_a_saga_draws_itself_for_a_terminal() -> None:
    assert (
        str(trip())
        == """\
trip-42: 6 steps
  ●      flight  flights.book     undo: cancel
  │ ●    hotel   hotels.reserve   undo: release
  ├─│─╮
  │ │ ●  car     cars.rent        nothing to undo
  ├─┼─╯
  ◆ │    pay     payments.charge  pivot
  ├─│─╮
  │ │ ●  mail    mail.send
  ├─╯
  ●      print   tickets.print"""
    )


def progress() -> Record:
    steps = [
        {"operation_id": "flight", "state": "compensated", "compensation_attempts": 2},
        {"operation_id": "hotel", "state": "failed", "attempts": 4, "note": "no room"},
        {"operation_id": "car", "state": "completed", "attempts": 1},
        {"operation_id": "pay", "state": "pending", "attempts": 0},
        {"operation_id": "mail", "state": "pending", "attempts": 0},
        {"operation_id": "print", "state": "pending", "attempts": 0},
    ]
    return Record("trip-42", TransactionState.ABORTED, steps, "hotel: no room")


def test_with_a_record_each_step_says_how_far_it_came() -> None:
    assert (
        trip().to_text(progress())
        == """\
trip-42: 6 steps, aborted: hotel: no room
  ↺      flight  flights.book     undo: cancel     compensated, 2 tries
  │ ✗    hotel   hotels.reserve   undo: release    failed, 4 tries: no room
  ├─│─╮
  │ │ ●  car     cars.rent        nothing to undo  completed
  ├─┼─╯
  ◇ │    pay     payments.charge  pivot            never asked
  ├─│─╮
  │ │ ○  mail    mail.send                         never asked
  ├─╯
  ○      print   tickets.print                     never asked"""
    )


def classes(svg: str, element: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [found.get("class", "") for found in root.iter(f"{SVG}{element}")]


def test_svg_has_a_box_for_each_step_and_a_way_for_each_dependence() -> None:
    svg = trip().to_svg()
    assert svg == trip()._repr_svg_()
    boxes = classes(svg, "rect")
    assert (boxes.count("step"), boxes.count("inner")) == (6, 1)
    assert classes(svg, "path").count("way") == 7
    root = ElementTree.fromstring(svg)
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {"trip-42", "6 steps", "flight", "flights.book", "undo: cancel", "pivot"} <= texts
    assert "prefers-color-scheme:dark" in svg


def test_svg_with_a_record_highlights_the_path_taken() -> None:
    svg = trip().to_svg(progress())
    boxes = classes(svg, "rect")
    for kind, count in {"undone": 1, "bad": 1, "done": 1, "idle": 3}.items():
        assert boxes.count(f"step {kind}") == count, kind
    ways = classes(svg, "path")
    assert (ways.count("way done"), ways.count("way idle")) == (1, 6)
    texts = {text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")}
    assert {"compensated, 2 tries", "failed, 4 tries", "no room", "never asked"} <= texts


def test_a_parked_step_stands_out_and_a_running_saga_says_what_was_not_asked_yet() -> None:
    record = progress()
    record.state = TransactionState.FAILED
    record.steps[0] = {"operation_id": "flight", "state": "parked", "note": "the line is dead"}
    assert "■      flight" in trip().to_text(record)
    assert "parked: the line is dead" in trip().to_text(record)
    assert "not asked yet" in trip().to_text(record)
    assert classes(trip().to_svg(record), "rect").count("step bad") == 2


def result(state: TransactionState, message: str | None = None) -> CoordinationResult:
    done = state is TransactionState.COMMITTED
    return CoordinationResult("trip-42", done, state, message, 5, [], 6 if done else 0, 0)


def test_a_result_alone_tells_that_all_is_done_or_only_how_it_ended() -> None:
    done = result(TransactionState.COMMITTED)
    assert classes(trip().to_svg(done), "rect").count("step done") == 6
    aborted = result(TransactionState.ABORTED, "hotel is full")
    assert "6 steps, aborted: hotel is full" in trip().to_text(aborted)
    assert classes(trip().to_svg(aborted), "rect").count("step") == 6


def test_the_record_of_another_saga_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"this is the saga 'trip-42'.*'trip-43'"):
        trip().to_svg(Record("trip-43", TransactionState.ABORTED, []))


def test_ids_that_want_to_act_are_only_shown() -> None:
    saga = Saga(EVIL)
    saga.step(EVIL, EVIL, id=EVIL, compensation={"type": EVIL})
    saga.step(EVIL, EVIL, id=f"2{EVIL}", compensation=None)
    steps = [{"operation_id": EVIL, "state": "failed", "note": EVIL}]
    record = Record(EVIL, TransactionState.ABORTED, steps, EVIL)
    for svg in (saga.to_svg(), saga.to_svg(record)):
        root = ElementTree.fromstring(svg)
        assert {found.tag for found in root.iter()} == {
            f"{SVG}{tag}"
            for tag in ("svg", "style", "defs", "marker", "path", "rect", "text", "g", "title")
        }
        attributes = {name for found in root.iter() for name in found.attrib}
        assert not any("href" in name or name.startswith("on") for name in attributes)
        assert "\x1b" not in svg and "\u202e" not in svg
    for text in (str(saga), saga.to_text(record)):
        assert "\x1b" not in text and "\u202e" not in text
        assert len(text.splitlines()) == 4


def test_a_saga_that_cannot_run_is_drawn_all_the_same() -> None:
    saga = Saga("s")
    saga.step("a", "x", id="one", after=["two"])
    saga.step("a", "x", id="two")
    assert str(saga) == "s: 2 steps\n  ●  one  a.x\n  ●  two  a.x"
    assert classes(saga.to_svg(), "rect").count("step") == 2
    assert str(Saga("s")) == "s: 0 steps"
    ElementTree.fromstring(Saga("s").to_svg())


def test_a_request_made_by_hand_can_be_checked_and_drawn() -> None:
    operations: list[dict[str, Any]] = [
        {"store": "a", "type": "x"},
        {"store": "a", "type": "y", "depends_on": []},
    ]
    saga = Saga.of(CoordinationRequest("s", CoordinationType.SAGA_ORCHESTRATION, ["a"], operations))
    saga.check()
    assert str(saga) == "s: 2 steps\n  ●  s:0  a.x\n  ●  s:1  a.y"


def test_a_record_shows_the_drawing_in_both_its_forms() -> None:
    step = {
        "operation_id": "one", "state": "completed", "attempts": 1, "compensation_attempts": 0,
        "result": None, "note": None, "started_at": None, "completed_at": None,
        "compensation_started_at": None, "compensated_at": None,
    }  # fmt: skip
    record = CoordinationRecord.from_engine(
        row(
            coordination_type="saga_orchestration",
            operations=[{"store": "left", "type": "put", "operation_id": "one"}],
            stores=[],
            steps=[step],
        )
    )
    assert "\n\n  ●  one  left.put  completed\n\n" in str(record)
    found = re.search(r'src="data:image/svg\+xml;base64,([^"]*)"', record._repr_html_())
    assert found is not None
    assert classes(b64decode(found[1]).decode(), "rect").count("step done") == 1
    plain = CoordinationRecord.from_engine(row())._repr_html_()
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', plain)
    assert not any("step" in b64decode(picture).decode() for picture in pictures)
    assert trip()._repr_html_().startswith('<img alt="the steps and the path taken" src="data:')


# ---- ways: read back from the drawing ---------------------------------------------------------

RIGHT, LEFT, UP = "─╭╰├┬┴┼", "─╮╯┤┬┴┼", "│╰╯├┤┴┼"


def read_back(lines: list[tuple[str, str | None]]) -> dict[str, set[str]]:
    """Which step needs which, by following the lines as an eye does."""
    found: dict[str, set[str]] = {}
    above: dict[int, str] = {}
    joint = ""
    for line, name in lines:
        if name is None:
            joint = line
            continue
        own = line.index("*")
        found[name] = set()
        reached = {own} if joint else set()
        for step, goes_on in ((-1, LEFT), (1, RIGHT)):
            at = own
            while 0 <= at < len(joint):
                # A way up and down on the way across has nothing to do with it.
                if joint[at] != "│" or at == own:
                    reached.add(at)
                    if joint[at] not in goes_on:
                        break
                at += step
        found[name] = {above[at] for at in reached if at in above and joint[at] in UP}
        kept = {at: who for at, who in above.items() if at < len(line) and line[at] == "│"}
        above = {**kept, own: name}
        joint = ""
    return found


def test_whatever_the_graph_its_drawing_tells_exactly_its_ways() -> None:
    for seed in range(300):
        dice = random.Random(seed)
        names = [f"s{index}" for index in range(dice.randint(1, 14))]
        needed = {
            name: dice.sample(names[:index], min(index, dice.choice([0, 1, 1, 1, 2, 3])))
            for index, name in enumerate(names)
        }
        drawn = _ways(needed)
        assert read_back(drawn) == {n: set(b) for n, b in needed.items()}, f"seed {seed}"
        places = [re.sub("[^*]", " ", line).index("*") for line, name in drawn if name]
        assert all(place % 2 == 0 for place in places), f"seed {seed}"
