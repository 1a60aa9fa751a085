"""A metrics collector that a Prometheus server reads: counters, gauges, histograms, the text form.

It shows what it is told and what the services count that it watches; these are asked when somebody
reads, so that counting costs them nothing in Python. Not the HTTP server (`_metrics_server`) and
not the names (the engine's). Invariants: any thread may use it; one name is one type with one set
of labels; a name that a watched service tells itself is not told by anybody else; the label sets
of a name are bounded, whatever labels come.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import weakref
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import _engine
from ._metric_checks import bounds, checked_labels, checked_name, number
from ._metric_text import Buckets, Family, Labels, lines_of
from ._metrics import IMetricsCollector

if TYPE_CHECKING:
    from ._metrics_server import MetricsServer
    from ._raft import RaftConsensusService
    from ._service import CoordinationService

__all__ = ["PrometheusMetrics"]

_logger = logging.getLogger("unanimity.metrics")

_NAMES_MAX = 1_000
_OTHER = "_other"
_HISTOGRAM_ENDS = ("_bucket", "_sum", "_count")
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def _engine_families() -> dict[str, Family]:
    return {
        name: Family(kind, text, tuple(bounds or ()), labels, across)
        for name, kind, text, labels, across, bounds in _engine.metric_table()
    }


def _new_family(name: str) -> Family:
    """Make one that nobody has described; a name of the engine's has a meaning already."""
    known = _engine_families().get(name, Family("", bounds=_BUCKETS))
    return Family("", known.help, known.bounds or _BUCKETS)


class NumbersOf:
    """What one service, or one node, counts, for whoever watches it; also after it is closed."""

    def __init__(self, source: _engine.Coordinator | _engine.RaftNode | None = None) -> None:
        """Nothing is counted before there is a source."""
        self.source = source
        self._last: list[_engine._Sample] = []
        self.is_closed = False

    def read(self) -> list[_engine._Sample]:
        """Everything as it is now."""
        source = self.source
        return self._last if source is None else source.numbers()

    def close(self) -> None:
        """Keep what was counted, and nothing of what there was at the moment."""
        if self.source is not None:
            kinds = {name: family.kind for name, family in _engine_families().items()}
            last = self.source.numbers()
            self._last = [sample for sample in last if kinds[sample[0]] != "gauge"]
            self.source = None
        self.is_closed = True


class PrometheusMetrics(IMetricsCollector):
    """Counts and measures in memory; `render()` and `serve()` show it to Prometheus.

    A service that is given no collector has one of these as `service.metrics`. One may be given to
    several services, whose counts are then added, and may be told more by the program itself.
    Where more than `max_label_sets` different sets of label values come for one name, the rest is
    counted together under the value "_other".
    """

    def __init__(self, *, max_label_sets: int = 1_000) -> None:
        """Begin empty."""
        if isinstance(max_label_sets, bool) or not isinstance(max_label_sets, int):
            raise TypeError(f"max_label_sets is a {type(max_label_sets).__name__}; give an int")
        if max_label_sets < 1:
            raise ValueError(f"max_label_sets is {max_label_sets}; give a number from 1")
        self._max_label_sets = max_label_sets
        self._lock = threading.Lock()
        self._families: dict[str, Family] = {}
        self._watched: list[NumbersOf] = []
        # What closed services counted, together.
        self._kept: dict[str, Family] = {}
        _all.add(self)

    # ---- being told -------------------------------------------------------------------------

    def increment_counter(
        self, name: str, value: float = 1, labels: Mapping[str, str] | None = None
    ) -> None:
        """Add to a counter.

        Raises ValueError for a name, label or value that cannot be used, or that the name was
        used for otherwise before; TypeError for an argument of another type.
        """
        amount = number(name, value)
        if not 0 <= amount < math.inf:
            raise ValueError(f"{name}: a counter only grows; {value!r} cannot be added")
        with self._lock:
            samples, key = self._place(name, "counter", labels)
            known = samples.get(key, 0.0)
            assert isinstance(known, (int, float))
            samples[key] = known + amount

    def set_gauge(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Note a present value. Raises as `increment_counter` does."""
        amount = number(name, value)
        with self._lock:
            samples, key = self._place(name, "gauge", labels)
            samples[key] = amount

    def record_histogram(
        self, name: str, value: float, labels: Mapping[str, str] | None = None
    ) -> None:
        """Note one observation; a duration in seconds. Raises as `increment_counter` does."""
        amount = number(name, value)
        if not math.isfinite(amount):
            raise ValueError(f"{name}: {value!r} cannot be observed; give a finite number")
        with self._lock:
            samples, key = self._place(name, "histogram", labels)
            limits = self._families[name].bounds
            buckets = samples.get(key)
            if not isinstance(buckets, Buckets):
                buckets = samples[key] = Buckets([0] * (len(limits) + 1))
            buckets.counts[bisect_left(limits, amount)] += 1
            buckets.total += amount

    def describe(self, name: str, help: str, *, buckets: Iterable[float] | None = None) -> None:
        """Say what a name means, before it is used; `buckets` are a histogram's upper bounds."""
        checked_name(name)
        if not isinstance(help, str):
            raise TypeError(f"help is a {type(help).__name__}; give a str")
        given = None if buckets is None else bounds(name, buckets)
        with self._lock:
            family = self._families.get(name)
            if family is None:
                self._check_room(name)
                family = self._families[name] = Family("", bounds=given or _BUCKETS)
            elif given is not None and family.samples:
                raise ValueError(f"{name} has been used; say its buckets before that")
            elif given is not None:
                family.bounds = given
            family.help = help

    def _place(
        self, name: str, kind: str, labels: Mapping[str, str] | None
    ) -> tuple[dict[Labels, float | Buckets], Labels]:
        """Find the samples of a name and the key of a set of labels, checked; under the lock."""
        key = checked_labels(name, labels, kind)
        family = self._families.get(name)
        if family is None:
            checked_name(name)
            self._check_room(name)
            family = self._families[name] = _new_family(name)
        if not family.kind:
            self._check_clash(name, kind)
            family.kind = kind
        elif family.kind != kind:
            raise ValueError(f"{name} is a {family.kind}, and cannot be a {kind} as well")
        names = tuple(label for label, _ in key)
        if family.label_names is None:
            family.label_names = names
        elif family.label_names != names:
            raise ValueError(
                f"{name} has the labels {list(family.label_names)}, and was given {list(names)}"
            )
        if key not in family.samples and len(family.samples) >= self._max_label_sets and key:
            if not family.is_full:
                family.is_full = True
                _logger.warning(
                    "%s has %d sets of label values; more are counted together as %r",
                    name,
                    self._max_label_sets,
                    _OTHER,
                )
            key = tuple((label, _OTHER) for label in names)
        return family.samples, key

    def _check_room(self, name: str) -> None:
        if len(self._families) >= _NAMES_MAX:
            raise ValueError(f"{name}: there are {_NAMES_MAX} names already; use labels instead")

    def _check_clash(self, name: str, kind: str) -> None:
        """See that no line of one name reads as a line of another."""
        own = [name + end for end in _HISTOGRAM_ENDS] if kind == "histogram" else []
        stems = [name[: -len(end)] for end in _HISTOGRAM_ENDS if name.endswith(end)]
        clash = [other for other in own if other in self._families]
        clash += [other for other in stems if self._kind_of(other) == "histogram"]
        if clash:
            raise ValueError(f"{name} cannot be told from {clash[0]}; give one another name")

    def _kind_of(self, name: str) -> str | None:
        family = self._families.get(name)
        return None if family is None else family.kind

    # ---- showing ----------------------------------------------------------------------------

    def watch(self, service: CoordinationService | RaftConsensusService) -> None:
        """Show what a service counts as well, also one that was given another collector.

        A node of a cluster without a service can be watched too.
        """
        numbers = getattr(service, "_numbers", None)
        if not isinstance(numbers, NumbersOf):
            raise TypeError(
                f"service is a {type(service).__name__}; give a CoordinationService, or a "
                "RaftConsensusService"
            )
        self._watch(numbers)

    def _watch(self, numbers: NumbersOf) -> None:
        with self._lock:
            if numbers not in self._watched:
                self._watched.append(numbers)

    def render(self) -> str:
        """Give everything in the text format 0.0.4 of Prometheus, in the order of the names.

        May be called from any thread.
        """
        with self._lock:
            watched = list(self._watched)
        # Not under the lock: an engine may take a moment to answer.
        read = [(numbers, numbers.is_closed, numbers.read()) for numbers in watched]
        with self._lock:
            families = self._gathered(read)
            own = {name: it for name, it in self._families.items() if it.kind and it.samples}
            lines = [
                line
                for name, family in sorted({**own, **families}.items())
                for line in lines_of(name, family)
            ]
        return "\n".join([*lines, ""])

    def _gathered(
        self, read: list[tuple[NumbersOf, bool, list[_engine._Sample]]]
    ) -> dict[str, Family]:
        """Add up what the services said; what closed ones said is kept, and they are let go."""
        if not read and not self._kept:
            return {}
        for numbers, is_closed, samples in read:
            if is_closed and numbers in self._watched:
                self._watched.remove(numbers)
                self._kept = self._kept or _engine_families()
                _take_in(self._kept, samples)
        families = _engine_families()
        for name, kept in self._kept.items():
            for labels, value in kept.samples.items():
                families[name].take(labels, value)
        for _, is_closed, samples in read:
            if not is_closed:
                _take_in(families, samples)
        return {name: family for name, family in families.items() if family.samples}

    def serve(self, host: str = "127.0.0.1", port: int = 9464) -> MetricsServer:
        """Answer a Prometheus server at http://host:port/metrics, from a thread of its own.

        Port 0 takes a free one; the answer says which. Raises ConfigError where the address cannot
        be listened at.
        """
        from ._metrics_server import MetricsServer

        return MetricsServer(self.render, host, port)

    def __repr__(self) -> str:
        with self._lock:
            return f"PrometheusMetrics({len(self._families)} names, {len(self._watched)} services)"


# Whoever forks while another thread holds a lock leaves it held for ever in the child.
_all: weakref.WeakSet[PrometheusMetrics] = weakref.WeakSet()


def _renew_locks() -> None:
    for metrics in list(_all):
        metrics._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def is_ours(collector: object) -> bool:
    """Whether it asks the engine by itself, so that nothing has to be told to it."""
    methods = ("increment_counter", "record_histogram", "render")
    own = type(collector)
    return isinstance(collector, PrometheusMetrics) and all(
        getattr(own, name) is getattr(PrometheusMetrics, name) for name in methods
    )


def _take_in(families: dict[str, Family], samples: list[_engine._Sample]) -> None:
    for name, values, value in samples:
        family = families[name]
        labels = tuple(zip(family.label_names or (), values, strict=True))
        family.take(labels, Buckets(*value) if isinstance(value, tuple) else value)


def metrics_for_service(collector: Any, is_enabled: bool, numbers: NumbersOf) -> Any:
    """Give what a service is to have as `metrics`, watching it where it is ours and wanted."""
    if not is_enabled:
        return collector
    chosen = PrometheusMetrics() if collector is None else collector
    if is_ours(chosen):
        chosen._watch(numbers)
    return chosen
