"""When an alert is due: readings and a time go in, alerts come out.

Not the reading and not the sending (`_alert_watch`). Pure: there is no clock, thread or loop in
here. Invariants: a cause that lasts is told once, and again only after `repeat_seconds`; it is told
as resolved once, after it was away for `resolve_seconds`; what is remembered is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_HOUR = 3_600.0
_SLOW_SHARE = 0.05
"""More than this share of slow ones is an alert: the 95th percentile is over the threshold."""
_SLOTS = 60
"""Into how many slots a window is divided; what is older than it leaves slot by slot."""
_EXAMPLES_MAX = 5


@dataclass(frozen=True)
class Backlog:
    """Coordinations that are open in one way: how many, since when the oldest, some of them."""

    count: int = 0
    oldest_seconds: float = 0.0
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What happened since the last reading, and what is open now."""

    ended: int = 0
    failed: int = 0
    slow: int = 0
    slowest_ms: int = 0
    deadlocks: int = 0
    failures: tuple[tuple[str, str], ...] = ()
    """Id and words of some that failed."""
    lost_majority: tuple[str, tuple[str, ...]] | None = None
    """The node that has none in reach, and whom it does not reach."""
    in_doubt: Backlog = Backlog()
    undelivered: Backlog = Backlog()
    parked: Backlog = Backlog()
    journal_fails: bool = False
    """Whether the journal cannot be written."""

    @staticmethod
    def from_engine(row: dict[str, Any]) -> Reading:
        """Make one of what the engine gives."""
        lost = row["lost_majority"]
        values: dict[str, Any] = {
            **row,
            "failures": tuple(row["failures"]),
            "lost_majority": None if lost is None else (lost[0], tuple(lost[1])),
        }
        for name in ("in_doubt", "undelivered", "parked"):
            count, oldest_seconds, ids = row[name]
            values[name] = Backlog(count, oldest_seconds, tuple(ids))
        return Reading(**values)


@dataclass(frozen=True)
class AlertSettings:
    """Thresholds and times, all in seconds unless their names say otherwise."""

    failure_rate: float = 0.05
    latency_ms: float = 5_000
    deadlocks_per_hour: float = 10
    in_doubt_seconds: float = 60
    undelivered_seconds: float = 300
    parked_seconds: float = 900
    window_seconds: float = 300
    minimum_samples: int = 20
    resolve_seconds: float = 300
    repeat_seconds: float = 14_400

    @property
    def age_seconds(self) -> float:
        """From which age on open coordinations are of interest."""
        return min(self.in_doubt_seconds, self.undelivered_seconds)


@dataclass(frozen=True)
class Alert:
    """What an alerting service is to send."""

    severity: str
    title: str
    message: str
    details: dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """A cause that is there now."""

    message: str
    details: dict[str, Any]


@dataclass
class _Slot:
    began: float
    ended: int = 0
    failed: int = 0
    slow: int = 0
    slowest_ms: int = 0
    deadlocks: int = 0
    failures: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=_EXAMPLES_MAX))

    def add(self, other: Reading | _Slot) -> None:
        self.ended += other.ended
        self.failed += other.failed
        self.slow += other.slow
        self.slowest_ms = max(self.slowest_ms, other.slowest_ms)
        self.deadlocks += other.deadlocks
        self.failures.extend(other.failures)


class Window:
    """Sums over the last `seconds`, in slots, so that it takes the same room at any rate."""

    def __init__(self, seconds: float) -> None:
        """Begin with nothing."""
        self._seconds = seconds
        self._slots: deque[_Slot] = deque()

    def add(self, now: float, reading: Reading) -> None:
        """Count a reading as of now, and forget what is too old."""
        if not self._slots or now - self._slots[-1].began >= self._seconds / _SLOTS:
            self._slots.append(_Slot(now))
        self._slots[-1].add(reading)
        while now - self._slots[0].began >= self._seconds:
            self._slots.popleft()

    def sums(self) -> _Slot:
        """Add up what is in it."""
        total = _Slot(0.0)
        for slot in self._slots:
            total.add(slot)
        return total


@dataclass
class _Seen:
    """What the rules look at: the settings, the windows, the last reading."""

    settings: AlertSettings
    recent: _Slot
    hour: _Slot
    reading: Reading
    parked_seconds: float


@dataclass(frozen=True)
class Rule:
    """One rule: its name, how it is told, and how it finds its cause.

    `find` is also told whether the rule has fired already: few samples are then no reason to take
    the cause for gone.
    """

    name: str
    severity: str
    title: str
    find: Callable[[_Seen, bool], Finding | None]


def _has_samples(seen: _Seen, fired: bool) -> bool:
    return seen.recent.ended >= (1 if fired else seen.settings.minimum_samples)


def _failure_rate(seen: _Seen, fired: bool) -> Finding | None:
    settings, recent = seen.settings, seen.recent
    if not _has_samples(seen, fired) or recent.failed <= settings.failure_rate * recent.ended:
        return None
    rate = recent.failed / recent.ended
    return Finding(
        f"{recent.failed} of {recent.ended} coordinations of the last {settings.window_seconds:g} s"
        f" did not commit ({rate:.1%}, threshold {settings.failure_rate:.1%}); look at what the "
        "named ones say, such as with describe()",
        {
            "rate": rate,
            "threshold": settings.failure_rate,
            "failed": recent.failed,
            "ended": recent.ended,
            "window_seconds": settings.window_seconds,
            "examples": [{"coordination_id": i, "error": words} for i, words in recent.failures],
        },
    )


def _latency(seen: _Seen, fired: bool) -> Finding | None:
    settings, recent = seen.settings, seen.recent
    if not _has_samples(seen, fired) or recent.slow <= _SLOW_SHARE * recent.ended:
        return None
    return Finding(
        f"{recent.slow} of {recent.ended} coordinations of the last {settings.window_seconds:g} s "
        f"took longer than {settings.latency_ms:g} ms, the longest {recent.slowest_ms} ms; find "
        "the store that is slow in the timelines of describe()",
        {
            "threshold_ms": settings.latency_ms,
            "slow": recent.slow,
            "ended": recent.ended,
            "slowest_ms": recent.slowest_ms,
            "window_seconds": settings.window_seconds,
        },
    )


def _deadlocks(seen: _Seen, fired: bool) -> Finding | None:
    found, threshold = seen.hour.deadlocks, seen.settings.deadlocks_per_hour
    if found <= threshold:
        return None
    return Finding(
        f"{found} deadlocks within the last hour (threshold {threshold:g}); have the operations of "
        "all coordinations name shared resources in one order, or fewer of them",
        {"deadlocks": found, "threshold": threshold},
    )


def _backlog(backlog: Backlog, threshold: float, message: str) -> Finding | None:
    if backlog.count == 0 or backlog.oldest_seconds < threshold:
        return None
    return Finding(
        f"{backlog.count} {message}; the oldest began {backlog.oldest_seconds:.0f} s ago "
        f"(threshold {threshold:g} s)",
        {
            "count": backlog.count,
            "oldest_seconds": backlog.oldest_seconds,
            "threshold_seconds": threshold,
            "coordination_ids": list(backlog.ids),
        },
    )


def _in_doubt(seen: _Seen, fired: bool) -> Finding | None:
    message = (
        "in doubt: whether the decision stands is not known, and the stores keep what they have "
        "prepared; see to the journal's disk, or the consensus service"
    )
    return _backlog(seen.reading.in_doubt, seen.settings.in_doubt_seconds, message)


def _undelivered(seen: _Seen, fired: bool) -> Finding | None:
    message = (
        "decided, and some store has not acknowledged it yet; it is asked again until it does: "
        "see to the stores that describe() names"
    )
    return _backlog(seen.reading.undelivered, seen.settings.undelivered_seconds, message)


def _parked(seen: _Seen, fired: bool) -> Finding | None:
    threshold, parked = seen.settings.parked_seconds, seen.reading.parked
    if parked.count == 0 or (not fired and seen.parked_seconds < threshold):
        return None
    return Finding(
        f"{parked.count} parked for {seen.parked_seconds:.0f} s (threshold {threshold:g} s), "
        "waiting for a person: mend the cause, then redrive() what dead_letters() lists, or "
        "resolve()",
        {
            "count": parked.count,
            "parked_seconds": seen.parked_seconds,
            "threshold_seconds": threshold,
            "coordination_ids": list(parked.ids),
        },
    )


def _journal(seen: _Seen, fired: bool) -> Finding | None:
    if not seen.reading.journal_fails:
        return None
    return Finding(
        "the journal cannot be written: nothing new begins, and decisions on their way are in "
        "doubt; see to its disk or its database, the log says what it answered",
        {},
    )


def _lost_majority(seen: _Seen, fired: bool) -> Finding | None:
    if seen.reading.lost_majority is None:
        return None
    node, unreachable = seen.reading.lost_majority
    whom = ", ".join(unreachable) or "no one in particular"
    return Finding(
        f"node {node} has no majority of the cluster in reach and decides nothing (it misses "
        f"{whom}); see to these nodes and the network between them",
        {"node_id": node, "unreachable": list(unreachable)},
    )


RULES = (
    Rule("high_failure_rate", "high", "High failure rate", _failure_rate),
    Rule("high_latency", "medium", "High latency", _latency),
    Rule("deadlock_rate", "medium", "Many deadlocks", _deadlocks),
    Rule("in_doubt", "high", "Coordinations in doubt", _in_doubt),
    Rule("undelivered", "high", "Decisions not delivered", _undelivered),
    Rule("parked", "medium", "Parked work", _parked),
    Rule("journal", "high", "Journal cannot be written", _journal),
    Rule("lost_majority", "high", "No majority in reach", _lost_majority),
)


@dataclass
class _Fire:
    """A rule whose cause was told and is not told as resolved."""

    since: float
    seen_at: float
    sent_at: float


class AlertRules:
    """Judges one reading after the other; `now` is in seconds, of any clock that only goes on."""

    def __init__(self, settings: AlertSettings) -> None:
        """Begin with nothing burning."""
        self._settings = settings
        self._recent = Window(settings.window_seconds)
        self._hour = Window(_HOUR)
        self._parked_since: float | None = None
        self._fires: dict[str, _Fire] = {}

    @property
    def burning(self) -> frozenset[str]:
        """The names of the rules that were told and are not told as resolved."""
        return frozenset(self._fires)

    def judge(self, now: float, reading: Reading) -> list[Alert]:
        """Say what is to be told now."""
        seen = self._see(now, reading)
        alerts = (
            self._turn(rule, now, rule.find(seen, rule.name in self._fires)) for rule in RULES
        )
        return [alert for alert in alerts if alert is not None]

    def _see(self, now: float, reading: Reading) -> _Seen:
        self._recent.add(now, reading)
        self._hour.add(now, reading)
        if reading.parked.count == 0:
            self._parked_since = None
        elif self._parked_since is None:
            self._parked_since = now
        parked_seconds = 0.0 if self._parked_since is None else now - self._parked_since
        return _Seen(
            self._settings, self._recent.sums(), self._hour.sums(), reading, parked_seconds
        )

    def _turn(self, rule: Rule, now: float, finding: Finding | None) -> Alert | None:
        fire = self._fires.get(rule.name)
        if finding is None:
            if fire is None or now - fire.seen_at < self._settings.resolve_seconds:
                return None
            del self._fires[rule.name]
            return _resolved(rule, fire, now)
        if fire is None:
            fire = self._fires[rule.name] = _Fire(now, now, now)
            return _fired(rule, finding, 0.0)
        fire.seen_at = now
        if now - fire.sent_at < self._settings.repeat_seconds:
            return None
        fire.sent_at = now
        return _fired(rule, finding, now - fire.since)


def _fired(rule: Rule, finding: Finding, lasts: float) -> Alert:
    still = f" It has lasted for {lasts:.0f} s." if lasts else ""
    details = {"alert": rule.name, "state": "firing", "lasts_seconds": lasts, **finding.details}
    return Alert(rule.severity, rule.title, f"{finding.message}.{still}", details)


def _resolved(rule: Rule, fire: _Fire, now: float) -> Alert:
    lasted, away = fire.seen_at - fire.since, now - fire.seen_at
    return Alert(
        "info",
        f"Resolved: {rule.title}",
        f"the cause is away for {away:.0f} s; it was there for {lasted:.0f} s",
        {"alert": rule.name, "state": "resolved", "lasts_seconds": lasted},
    )
