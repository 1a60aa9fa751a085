"""What a metrics collector and an alerting service are: the interfaces only.

Our own collector is in `_prometheus`.

Invariant: neither is ever called on the commit path, and one that raises changes no outcome.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class IMetricsCollector(ABC):
    """Counts and measures."""

    @abstractmethod
    def increment_counter(
        self, name: str, value: float = 1, labels: dict[str, str] | None = None
    ) -> None:
        """Add to a counter."""

    @abstractmethod
    def record_histogram(
        self, name: str, value: float, labels: dict[str, str] | None = None
    ) -> None:
        """Note one observation."""

    # Not abstract: collectors with the first two methods alone serve as well.
    def set_gauge(  # noqa: B027
        self, name: str, value: float, labels: dict[str, str] | None = None
    ) -> None:
        """Note a present value."""


class IAlertingService(ABC):
    """Tells people."""

    @abstractmethod
    async def send_alert(
        self, severity: str, title: str, message: str, details: dict[str, Any]
    ) -> None:
        """Send one alert."""
