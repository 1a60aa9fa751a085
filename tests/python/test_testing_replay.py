"""`replay`: a scenario is killed at every point, recovered and checked; what is torn is found."""

from __future__ import annotations

import pytest

import replay_shop
from unanimity import ConfigError
from unanimity.testing import ReplayBroken, replay

RECORDS = [
    f"{when}:{kind}"
    for kind in ("begin", "decision", "end")
    for when in ("before_record", "before_sync", "after_record")
]
ASKS = [
    f"{when}:{what}:{store}"
    for store in ("files", "bank")
    for what in ("prepare", "commit")
    for when in ("before_ask", "after_ask")
]


def test_a_transaction_is_whole_wherever_the_process_dies() -> None:
    report = replay(replay_shop.make_service, replay_shop.order, replay_shop.check)
    assert report.broken == []
    assert {*RECORDS, *ASKS} <= set(report.reached), report
    assert {"store_staged:files", "store_committed:files"} <= set(report.reached)
    assert "no crash" in report.table() and "not reached" not in report.table(), report


def test_a_saga_is_undone_wherever_the_process_dies() -> None:
    points = [
        *("after_record:step_done", "after_record:step_done#2", "before_record:decision"),
        *("after_ask:execute:room", "before_ask:compensate:seat", "after_ask:compensate:room"),
    ]
    report = replay(
        "replay_shop:make_service", "replay_shop:trip", "replay_shop:check_trip", points=points
    )
    assert report.reached == points, report


def test_a_store_that_forgets_what_it_prepared_is_found() -> None:
    points = ["before_ask:commit:bank", "before_ask:prepare:files"]
    with pytest.raises(ReplayBroken) as caught:
        replay(replay_shop.make_forgetful, replay_shop.order, replay_shop.check, points=points)
    (broken,) = caught.value.report.broken
    assert broken.point == "before_ask:commit:bank"
    assert "torn: the bank has None, the files 1" in broken.note


def test_a_scenario_that_fails_by_itself_is_told_before_anything_is_killed() -> None:
    with pytest.raises(ReplayBroken, match="no crash: the scenario itself failed") as caught:
        replay(replay_shop.make_service, replay_shop.fail, replay_shop.check)
    assert len(caught.value.report.results) == 1
    assert "the scenario is wrong" in str(caught.value)


def test_what_makes_no_service_is_told() -> None:
    with pytest.raises(ReplayBroken, match="which is no CoordinationService"):
        replay(replay_shop.make_nothing, replay_shop.order, replay_shop.check)


def test_points_that_are_never_reached_prove_nothing() -> None:
    arguments = (replay_shop.make_service, replay_shop.order, replay_shop.check)
    with pytest.raises(ConfigError, match="reaches none of the points"):
        replay(*arguments, points=["before_ask:commit:nobody"])
    with pytest.raises(ConfigError, match="give a function of a module, or its name"):
        replay(lambda folder: None, *arguments[1:])
