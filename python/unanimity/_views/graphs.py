"""Graphs as the engine draws them, asked with texts that it can take.

Not the layout, which is the engine's. Invariant: a text with half a character, which Python allows
and UTF-8 does not, is drawn with a mark in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def whole(text: str) -> str:
    """The text as UTF-8 can hold it."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def draw_waits(
    waits: Mapping[str, Iterable[str]], wants: Mapping[str, Iterable[str]], form: str
) -> str:
    """Who waits for whom as "text", "dot" or "svg"."""
    from .._engine import draw_waits

    return draw_waits(_whole(waits), _whole(wants), form)


def wait_circles(waits: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """For each knot of waits in a circle one of the shortest."""
    from .._engine import wait_circles

    return wait_circles(_whole(waits))


def _whole(names: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    return {whole(name): [whole(one) for one in others] for name, others in names.items()}
