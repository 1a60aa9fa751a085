"""When an alert is due: the rules are moved through time by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from unanimity._alert_rules import (
    RULES,
    Alert,
    AlertRules,
    AlertSettings,
    Backlog,
    Reading,
    Window,
)

SETTINGS = AlertSettings()
"""The defaults: a window of 300 s, 20 samples, resolved after 300 s, told again after 4 h."""


class Clock:
    """Rules at a time that the test moves on, ten seconds with each look."""

    def __init__(self, settings: AlertSettings = SETTINGS) -> None:
        self.rules = AlertRules(settings)
        self.now = 1_000.0

    def look(self, **reading: Any) -> list[tuple[str, str]]:
        """Look once; which alerts came, and how they stand."""
        return [(alert.details["alert"], alert.details["state"]) for alert in self.hear(**reading)]

    def hear(self, **reading: Any) -> list[Alert]:
        self.now += 10
        return self.rules.judge(self.now, Reading(**reading))

    def for_seconds(self, seconds: float, **reading: Any) -> list[tuple[str, str]]:
        """Look for so long with the same reading; all alerts that came."""
        looks = round(seconds / 10)
        return [alert for _ in range(looks) for alert in self.look(**reading)]


FIRED = [("high_failure_rate", "firing")]
RESOLVED = [("high_failure_rate", "resolved")]


def test_a_burst_of_failures_is_told_once_and_its_end_once() -> None:
    clock = Clock()
    assert clock.for_seconds(100, ended=10) == []
    assert clock.look(ended=20, failed=20) == FIRED
    # Its failures are in the window for 300 s; 300 s after the last look at them it is resolved.
    assert clock.for_seconds(580, ended=10) == []
    assert clock.look(ended=10) == RESOLVED
    assert clock.for_seconds(3_600, ended=10) == []


def test_a_rate_at_the_threshold_is_no_alert_and_one_above_it_is() -> None:
    clock = Clock()
    assert clock.look(ended=100, failed=5) == []
    assert clock.look(ended=100, failed=6) == FIRED


def test_too_few_samples_are_no_alert_until_there_are_enough() -> None:
    clock = Clock()
    assert clock.look(ended=19, failed=19) == []
    assert clock.look(ended=1, failed=1) == FIRED


def test_once_fired_a_trickle_of_failures_keeps_it_from_being_resolved() -> None:
    clock = Clock()
    assert clock.look(ended=20, failed=20) == FIRED
    # One in five minutes is less than the samples that it takes to fire.
    for _ in range(10):
        assert clock.for_seconds(200) == []
        assert clock.look(ended=1, failed=1) == []
    assert clock.for_seconds(700) == RESOLVED


def test_a_cause_that_comes_back_before_it_is_resolved_is_the_same_alert() -> None:
    clock = Clock(AlertSettings(window_seconds=10))
    assert clock.look(ended=20, failed=20) == FIRED
    for _ in range(20):
        assert clock.for_seconds(200, ended=20) == []
        assert clock.look(ended=20, failed=20) == []
    assert clock.for_seconds(300, ended=20) == RESOLVED
    assert clock.look(ended=20, failed=20) == FIRED


def test_while_it_lasts_it_is_told_again_after_the_long_interval_only() -> None:
    clock = Clock()
    hours = 12
    alerts = clock.for_seconds(hours * 3_600, ended=10, failed=10)
    assert alerts == FIRED * 3
    last = [alert for _ in range(1_440) for alert in clock.hear(ended=10, failed=10)][-1]
    assert last.details["lasts_seconds"] == pytest.approx(12 * 3_600, abs=60)
    assert "It has lasted for" in last.message


def test_slow_ones_are_an_alert_when_more_than_one_of_twenty_is() -> None:
    clock = Clock()
    assert clock.look(ended=100, slow=5, slowest_ms=9_000) == []
    assert clock.look(ended=100, slow=6, slowest_ms=12_000) == [("high_latency", "firing")]


def test_deadlocks_are_counted_over_an_hour() -> None:
    clock = Clock()
    for _ in range(10):
        assert clock.for_seconds(350) == []
        assert clock.look(deadlocks=1) == []
    # The tenth is the last that is allowed; the first leaves the hour before the next comes.
    assert clock.for_seconds(350) == []
    assert clock.look(deadlocks=1) == []
    assert clock.look(deadlocks=1) == [("deadlock_rate", "firing")]
    assert clock.for_seconds(3_600 + 300) == [("deadlock_rate", "resolved")]


@pytest.mark.parametrize("name,age", [("in_doubt", 60.0), ("undelivered", 300.0)])
def test_open_coordinations_are_an_alert_from_their_age_on(name: str, age: float) -> None:
    clock = Clock()
    assert clock.look(**{name: Backlog(5, age - 1, ("a",))}) == []
    assert clock.look(**{name: Backlog(5, age, ("a",))}) == [(name, "firing")]
    assert clock.for_seconds(290, **{name: Backlog(5, age - 1, ("a",))}) == []
    assert clock.look() == [(name, "resolved")]


def test_parked_work_is_an_alert_once_it_has_waited_and_starts_anew_when_it_was_away() -> None:
    clock = Clock()
    one = Backlog(1, 1e6, ("a",))
    for _ in range(3):
        assert clock.for_seconds(890, parked=one) == []
        assert clock.look() == []
    assert clock.for_seconds(910, parked=one) == [("parked", "firing")]
    assert clock.for_seconds(400) == [("parked", "resolved")]


def test_a_journal_that_cannot_be_written_is_told_at_once() -> None:
    clock = Clock()
    assert clock.look(journal_fails=True) == [("journal", "firing")]
    assert clock.for_seconds(310) == [("journal", "resolved")]


def test_a_lost_majority_is_told_at_once_with_the_nodes_that_are_missed() -> None:
    clock = Clock()
    (alert,) = clock.hear(lost_majority=("a", ("b", "c")))
    assert (alert.severity, alert.title) == ("high", "No majority in reach")
    assert alert.details["unreachable"] == ["b", "c"] and "b, c" in alert.message
    assert clock.for_seconds(310) == [("lost_majority", "resolved")]


def test_causes_are_told_apart() -> None:
    clock = Clock()
    doubt = Backlog(1, 100.0, ("a",))
    alerts = clock.look(ended=20, failed=20, slow=20, in_doubt=doubt)
    assert alerts == [
        ("high_failure_rate", "firing"),
        ("high_latency", "firing"),
        ("in_doubt", "firing"),
    ]
    assert clock.rules.burning == {"high_failure_rate", "high_latency", "in_doubt"}


def test_an_alert_names_some_of_those_that_failed_and_its_numbers() -> None:
    clock = Clock()
    failures = tuple((f"c{number}", "aborted") for number in range(5))
    (alert,) = clock.hear(ended=40, failed=10, failures=failures)
    assert "10 of 40" in alert.message and "25.0%" in alert.message
    assert alert.details["rate"] == 0.25
    assert alert.details["examples"][0] == {"coordination_id": "c0", "error": "aborted"}


def test_nothing_that_happens_gives_more_alerts_than_its_causes_can() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    clock = Clock()
    stands: dict[str, str] = {}
    sent: dict[str, float] = {}
    for _ in range(5_000):
        for name, state in clock.look(**_any_reading(chance)):
            before = stands.get(name, "resolved")
            if state == "resolved":
                assert before == "firing", name
            elif before == "firing":
                assert clock.now - sent[name] >= SETTINGS.repeat_seconds, name
            stands[name] = state
            sent[name] = clock.now
    assert clock.rules.burning == {name for name, state in stands.items() if state == "firing"}
    clock.for_seconds(2 * 3_600)
    assert clock.rules.burning == frozenset()


def _any_reading(chance: random.Random) -> dict[str, Any]:
    ended = chance.choice([0, 1, 30, 300])
    backlogs: Iterator[Backlog] = (
        Backlog(chance.choice([0, 0, 3]), chance.uniform(0, 500), ()) for _ in range(3)
    )
    return {
        "ended": ended,
        "failed": chance.randint(0, ended) if chance.random() < 0.2 else 0,
        "slow": chance.randint(0, ended) if chance.random() < 0.2 else 0,
        "deadlocks": chance.choice([0] * 50 + [3]),
        "lost_majority": chance.choice([None] * 100 + [("a", ("b",))]),
        **dict(zip(("in_doubt", "undelivered", "parked"), backlogs, strict=True)),
    }


def test_a_window_takes_the_same_room_at_any_rate_and_forgets_what_is_old() -> None:
    window = Window(300)
    for number in range(100_000):
        window.add(number * 0.01, Reading(ended=1))
    assert len(window._slots) <= 61
    # All of the last 300 s but what its oldest slot had, and nothing of before.
    assert 29_000 <= window.sums().ended <= 30_000
    window.add(1e6, Reading())
    assert window.sums().ended == 0


def test_every_rule_has_a_name_and_a_severity_of_its_own_kind() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert {rule.severity for rule in RULES} <= {"medium", "high"}
