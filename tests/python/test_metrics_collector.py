"""PrometheusMetrics by itself: what it is told comes out as Prometheus reads it."""

from __future__ import annotations

import math
import os
import random
import string
import threading
from typing import Any

import pytest

from metric_readings import Reading
from unanimity import PrometheusMetrics


def test_counters_gauges_and_histograms_read_back_as_what_was_told() -> None:
    metrics = PrometheusMetrics()
    metrics.increment_counter("sent_total", labels={"to": "a"})
    metrics.increment_counter("sent_total", 2.5, labels={"to": "a"})
    metrics.increment_counter("sent_total", labels={"to": "b"})
    metrics.set_gauge("depth", 7)
    metrics.set_gauge("depth", -3)
    for seconds in (0.0004, 0.0005, 0.3, 100):
        metrics.record_histogram("took_seconds", seconds)
    reading = Reading(metrics.render())
    assert reading.types == {"sent_total": "counter", "depth": "gauge", "took_seconds": "histogram"}
    assert reading.value("sent_total", to="a") == 3.5
    assert reading.value("sent_total", to="b") == 1
    assert reading.value("depth") == -3
    assert reading.value("took_seconds_bucket", le="0.0005") == 2, "a bound is in its bucket"
    assert reading.value("took_seconds_bucket", le="0.25") == 2
    assert reading.value("took_seconds_bucket", le="0.5") == 3
    assert reading.value("took_seconds_bucket", le="60") == 3
    assert reading.value("took_seconds_bucket", le="+Inf") == 4
    assert reading.value("took_seconds_count") == 4
    assert reading.value("took_seconds_sum") == pytest.approx(100.3009)


def test_the_text_is_the_same_whatever_the_order_of_telling() -> None:
    told = [("b_total", {"x": "2", "y": "1"}), ("a_total", None), ("b_total", {"y": "0", "x": "2"})]
    texts = set()
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        metrics = PrometheusMetrics()
        for name, labels in (told[place] for place in order):
            metrics.increment_counter(name, labels=labels)
        texts.add(metrics.render())
    assert texts == {
        "# TYPE a_total counter\na_total 1\n# TYPE b_total counter\n"
        'b_total{x="2",y="0"} 1\nb_total{x="2",y="1"} 1\n'
    }


def test_a_help_text_and_buckets_can_be_given() -> None:
    metrics = PrometheusMetrics()
    metrics.describe("size", 'How "big",\nin \\ bytes', buckets=[1, 2, math.inf])
    metrics.record_histogram("size", 2)
    assert metrics.render() == (
        '# HELP size How "big",\\nin \\\\ bytes\n# TYPE size histogram\n'
        'size_bucket{le="1"} 0\nsize_bucket{le="2"} 1\nsize_bucket{le="+Inf"} 1\n'
        "size_sum 2\nsize_count 1\n"
    )
    with pytest.raises(ValueError, match="size has been used; say its buckets before that"):
        metrics.describe("size", "again", buckets=[5])
    metrics.describe("size", "again")
    assert "# HELP size again\n" in metrics.render()


def test_hostile_label_values_read_back_as_they_were() -> None:
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"SEED={seed}")
    chance = random.Random(seed)
    letters = string.printable + '\\"\n{}=,# \t\0\x85\u2028\N{SNOWMAN}\N{PILE OF POO}'
    values = {"".join(chance.choices(letters, k=chance.randrange(30))) for _ in range(200)}
    values |= {"", "\\", "\\n", '"', '"} 1\nup 0', "# HELP x", 'a",b="c'}
    metrics = PrometheusMetrics()
    for value in values:
        metrics.increment_counter("seen_total", labels={"user": value, "other": "x"})
    reading = Reading(metrics.render())
    assert {labels["user"] for labels in reading.labels("seen_total")} == values
    assert set(reading.types) == {"seen_total"}


def test_a_value_that_is_no_text_can_be_sent_all_the_same() -> None:
    metrics = PrometheusMetrics()
    metrics.increment_counter("seen_total", labels={"user": "a\udc80b"})
    metrics.increment_counter("seen_total", labels={"user": "x" * 5_000})
    assert metrics.render().encode()
    assert max(len(line) for line in metrics.render().splitlines()) < 1_100


def test_label_sets_are_bounded_and_the_rest_is_counted_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = PrometheusMetrics(max_label_sets=100)
    for number in range(10_000):
        metrics.increment_counter("seen_total", labels={"user": str(number)})
    metrics.increment_counter("seen_total", labels={"user": "7"})
    reading = Reading(metrics.render())
    assert len(reading.labels("seen_total")) == 101
    assert reading.value("seen_total", user="_other") == 9_900
    assert reading.value("seen_total", user="7") == 2, "those that are there go on"
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "seen_total has 100 sets of label values; more are counted together as '_other'"
    ]


def test_names_are_bounded() -> None:
    metrics = PrometheusMetrics()
    for number in range(1_000):
        metrics.set_gauge(f"gauge_{number}", 1)
    with pytest.raises(ValueError, match="there are 1000 names already; use labels instead"):
        metrics.set_gauge("one_more", 1)
    metrics.set_gauge("gauge_1", 2)


BAD: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    (("1x",), ValueError, "'1x' cannot name a metric; use letters, digits, _ and :, and no"),
    (("",), ValueError, "'' cannot name a metric"),
    (("a b",), ValueError, "'a b' cannot name a metric"),
    (("a\n",), ValueError, r"'a\\n' cannot name a metric"),
    ((None,), TypeError, "the name of a metric is a NoneType; give a str"),
    (("x_total", -1), ValueError, "x_total: a counter only grows; -1 cannot be added"),
    (("x_total", math.nan), ValueError, "x_total: a counter only grows; nan cannot be added"),
    (("x_total", math.inf), ValueError, "x_total: a counter only grows; inf cannot be added"),
    (("x_total", "1"), TypeError, "x_total: the value is a str; give a number"),
    (("x_total", True), TypeError, "x_total: the value is a bool; give a number"),
    (("x_total", 10**400), ValueError, "x_total: the value is too large for a float"),
    (("x_total", 1, ["a"]), TypeError, "x_total: labels is a list; give a dict"),
    (("x_total", 1, {"a-b": "1"}), ValueError, "x_total: 'a-b' cannot name a label"),
    (("x_total", 1, {"__a": "1"}), ValueError, "x_total: '__a' cannot name a label"),
    (("x_total", 1, {1: "1"}), ValueError, "x_total: 1 cannot name a label"),
    (("x_total", 1, {"a": None}), TypeError, "x_total: a label's value is a NoneType; give a str"),
]


@pytest.mark.parametrize(("arguments", "error", "words"), BAD)
def test_what_cannot_be_used_says_what_to_give_instead(
    arguments: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    metrics = PrometheusMetrics()
    with pytest.raises(error, match=words):
        metrics.increment_counter(*arguments)
    assert metrics.render() == "", "nothing of it is kept"


def test_one_name_is_one_type_with_one_set_of_labels() -> None:
    metrics = PrometheusMetrics()
    metrics.increment_counter("x", labels={"a": "1"})
    with pytest.raises(ValueError, match="x is a counter, and cannot be a gauge as well"):
        metrics.set_gauge("x", 1)
    with pytest.raises(ValueError, match=r"x has the labels \['a'\], and was given \['b'\]"):
        metrics.increment_counter("x", labels={"b": "1"})
    metrics.record_histogram("took", 1)
    with pytest.raises(ValueError, match="took_count cannot be told from took"):
        metrics.increment_counter("took_count")
    metrics.set_gauge("size_sum", 1)
    with pytest.raises(ValueError, match="size cannot be told from size_sum"):
        metrics.record_histogram("size", 1)
    with pytest.raises(ValueError, match="the label 'le' of a histogram is its bounds'"):
        metrics.record_histogram("other", 1, labels={"le": "1"})
    with pytest.raises(ValueError, match="inf cannot be observed; give a finite number"):
        metrics.record_histogram("other", math.inf)
    for wrong in ([], [1, 1], [2, 1], [math.nan]):
        with pytest.raises(ValueError, match="give growing upper bounds"):
            metrics.describe("other", "", buckets=wrong)
    with pytest.raises(ValueError, match="max_label_sets is 0; give a number from 1"):
        PrometheusMetrics(max_label_sets=0)


def test_threads_that_tell_and_read_at_once_lose_nothing() -> None:
    metrics = PrometheusMetrics()

    def tell(number: int) -> None:
        for _ in range(2_000):
            metrics.increment_counter("told_total", labels={"thread": str(number % 2)})
            metrics.record_histogram("took", number)

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        reading = Reading(metrics.render())
        assert reading.value("took_count") == reading.value("took_bucket", le="+Inf")
    for thread in threads:
        thread.join()
    reading = Reading(metrics.render())
    assert [reading.value("told_total", thread=number) for number in "01"] == [4_000, 4_000]
    assert reading.value("took_count") == 8_000


def test_a_forked_child_can_use_it_whoever_held_its_lock() -> None:
    metrics = PrometheusMetrics()
    with metrics._lock:
        child = os.fork()
        if child == 0:
            metrics.increment_counter("child_total")
            os._exit(0 if "child_total 1" in metrics.render() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
