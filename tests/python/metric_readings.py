"""Reads the text form of metrics by the parser of the official client, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families


class Reading:
    """The values of one text, by name and labels."""

    def __init__(self, text: str) -> None:
        self.types: dict[str, str] = {}
        self.helps: dict[str, str] = {}
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            name = family.name + ("_total" if family.type == "counter" else "")
            self.types[name], self.helps[name] = family.type, family.documentation
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self.values, key
                self.values[key] = sample.value

    def value(self, name: str, **labels: str) -> float | None:
        """The value, None where there is none."""
        return self.values.get((name, frozenset(labels.items())))

    def labels(self, name: str) -> list[dict[str, str]]:
        """Every set of labels of a name."""
        return [dict(labels) for known, labels in self.values if known == name]


async def reading_when(metrics: Any, is_so: Callable[[Reading], object]) -> Reading:
    """Read until it is so: what a service counts may come a moment after its answer."""
    end = asyncio.get_running_loop().time() + 30
    while True:
        reading = Reading(metrics.render())
        if is_so(reading):
            return reading
        assert asyncio.get_running_loop().time() < end, metrics.render()
        await asyncio.sleep(0.02)
