"""Has the alert rules look at a service, again and again, and hands on what they say.

Not the rules (`_alert_rules`) and not the sending (the alerting service). It is a timer of the
loop between looks, so a loop that is thrown away leaves no task behind; and it holds no service, so
one that is dropped is gone. Invariant: whatever goes wrong here is logged and changes no outcome.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import weakref
from collections.abc import Callable
from typing import Any

from . import _engine
from ._alert_rules import Alert, AlertRules, AlertSettings, Reading
from ._alerting import ALERT_LOGGER
from ._config import CoordinationConfig
from ._exceptions import ServiceClosed

_log = logging.getLogger(ALERT_LOGGER)


def alert_settings_of(config: CoordinationConfig) -> AlertSettings:
    """Take thresholds and times from `monitoring.alerts`."""
    alerts = config.monitoring.alerts
    return AlertSettings(
        failure_rate=alerts.high_failure_rate_threshold,
        latency_ms=alerts.high_latency_threshold_ms,
        deadlocks_per_hour=alerts.deadlock_rate_threshold_per_hour,
        in_doubt_seconds=alerts.in_doubt_age_threshold_seconds,
        undelivered_seconds=alerts.undelivered_age_threshold_seconds,
        parked_seconds=alerts.parked_age_threshold_seconds,
        window_seconds=alerts.window_seconds,
        minimum_samples=alerts.minimum_samples,
        resolve_seconds=alerts.resolve_after_seconds,
        repeat_seconds=alerts.repeat_interval_seconds,
    )


class AlertWatch:
    """The looking of one service, from `start` to `stop`."""

    def __init__(
        self,
        coordinator: Callable[[], _engine.Coordinator | None],
        config: CoordinationConfig,
        node_id: str | None,
    ) -> None:
        """Take from where to get the coordinator; None from there ends the looking."""
        self._coordinator = coordinator
        settings = alert_settings_of(config)
        self._age = settings.age_seconds
        self._interval: float = config.monitoring.alerts.evaluation_interval_seconds
        self._rules = AlertRules(settings)
        self._source: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
        if node_id is not None:
            self._source["node"] = node_id
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = False
        self._last_trouble = ""

    def start(self) -> None:
        """Look next after one interval of the running loop."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)

    def stop(self) -> None:
        """Look no more; repeats do nothing."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        coordinator = self._coordinator()
        if self._is_stopped or coordinator is None:
            return
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        future.add_done_callback(self._looked)
        try:
            coordinator.look(self._age, future)
        except ServiceClosed:
            # Not started yet, or not again.
            self.start()

    def _looked(self, future: asyncio.Future[dict[str, Any]]) -> None:
        if self._is_stopped or future.cancelled():
            return
        try:
            now = asyncio.get_running_loop().time()
            for alert in self._rules.judge(now, Reading.from_engine(future.result())):
                self._tell(alert)
            self._last_trouble = ""
        except ServiceClosed:
            # Its engine ended without it, with the loop or at exit.
            return
        except Exception as error:
            self._note(error)
        self.start()

    def _tell(self, alert: Alert) -> None:
        coordinator = self._coordinator()
        sent = coordinator is not None and coordinator.alert(
            {
                "severity": alert.severity,
                "title": alert.title,
                "message": alert.message,
                "details": {**alert.details, **self._source},
            }
        )
        if not sent:
            _log.warning("%s: %s (the alerting service is too slow)", alert.title, alert.message)

    def _note(self, error: Exception) -> None:
        """Say a trouble once, not with every look: it may well be that the engine broke down."""
        words = f"{type(error).__name__}: {error}"
        if words == self._last_trouble:
            return
        self._last_trouble = words
        details = {"alert": "cannot_look", "state": "firing"}
        message = f"the alert rules cannot look at the service: {words}"
        self._tell(Alert("high", "The service cannot be watched", message, details))


def watch_of(
    service: Any, config: CoordinationConfig, settings: dict[str, Any]
) -> AlertWatch | None:
    """Make the watch of a service where its configuration has one, and have the engine count.

    `settings` are the engine's: what it has to know to count is added.
    """
    if not config.monitoring.alerts.enabled:
        return None
    settings["slow_after_ms"] = alert_settings_of(config).latency_ms
    known = weakref.ref(service)

    def coordinator() -> _engine.Coordinator | None:
        held = known()
        return None if held is None else held._coordinator

    return AlertWatch(coordinator, config, settings.get("node_id"))
