"""Alerting services that come with the package: the log. The webhook is `_webhook`.

Not the rules by which alerts are raised (`_alert_rules`). Invariant: a severity that is not known
is sent all the same.
"""

from __future__ import annotations

import logging
from typing import Any

from ._metrics import IAlertingService

ALERT_LOGGER = "unanimity.alerts"
"""Under which name alerts, and trouble with sending them, are logged."""

_LEVELS = {
    "info": logging.INFO,
    "low": logging.INFO,
    "medium": logging.WARNING,
    "high": logging.ERROR,
    "critical": logging.CRITICAL,
}


def level_of(severity: str) -> int:
    """Give the level of the log for a severity; WARNING for one that is not known."""
    return _LEVELS.get(str(severity).lower(), logging.WARNING)


class LogAlerting(IAlertingService):
    """Writes alerts to a log: "high" as ERROR, "medium" as WARNING, "info" as INFO.

    The record has `severity`, `title` and `details` as attributes, for handlers that send it on.
    """

    def __init__(self, logger: str | logging.Logger = ALERT_LOGGER) -> None:
        """Choose the log, by its name or itself."""
        if not isinstance(logger, (str, logging.Logger)):
            raise TypeError(f"logger is a {type(logger).__name__}; give a name or a Logger")
        self.logger = logging.getLogger(logger) if isinstance(logger, str) else logger

    async def send_alert(
        self, severity: str, title: str, message: str, details: dict[str, Any]
    ) -> None:
        """Write one record."""
        self.logger.log(
            level_of(severity),
            "%s: %s",
            title,
            message,
            extra={"severity": severity, "title": title, "details": details},
        )

    def __repr__(self) -> str:
        return f"LogAlerting({self.logger.name!r})"
