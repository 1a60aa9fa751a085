"""The checks of what a metrics collector is told: names, labels, values, bounds.

Not the collecting. Invariant: what cannot be used is a ValueError, or a TypeError, that says of
which metric, and what to give instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise

from ._metric_text import Labels

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_VALUE_LENGTH_MAX = 1_000


def number(name: object, value: object) -> float:
    """Take a number; TypeError or ValueError where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: the value is a {type(value).__name__}; give a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: the value is too large for a float") from None


def checked_name(name: object) -> str:
    """Take the name of a metric."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a metric is a {type(name).__name__}; give a str")
    if not _NAME.fullmatch(name) or len(name) > _VALUE_LENGTH_MAX:
        raise ValueError(
            f"{name[:100]!r} cannot name a metric; use letters, digits, _ and :, and no digit first"
        )
    return name


def checked_labels(name: object, labels: object, kind: str) -> Labels:
    """Take labels, with values that can be sent, in the order of their names."""
    if labels is None:
        return ()
    if not isinstance(labels, Mapping):
        raise TypeError(f"{name}: labels is a {type(labels).__name__}; give a dict")
    return tuple(sorted((_label(name, key, kind), _value(v, name)) for key, v in labels.items()))


def _label(name: object, label: object, kind: str) -> str:
    if not isinstance(label, str) or not _LABEL.fullmatch(label) or label.startswith("__"):
        raise ValueError(
            f"{name}: {label!r} cannot name a label; use letters, digits and _, no digit first and "
            "no __ in front"
        )
    if label == "le" and kind == "histogram":
        raise ValueError(f"{name}: the label 'le' of a histogram is its bounds'; use another name")
    return label


def _value(value: object, name: object) -> str:
    if isinstance(value, (bool, int, float)):
        value = str(value)
    if not isinstance(value, str):
        raise TypeError(f"{name}: a label's value is a {type(value).__name__}; give a str")
    # What is no text (a lone surrogate) could not be sent.
    return value[:_VALUE_LENGTH_MAX].encode("utf-8", "replace").decode()


def bounds(name: str, buckets: Iterable[float]) -> tuple[float, ...]:
    """Take the upper bounds of a histogram; infinity is there anyway."""
    bounds = [number(name, bound) for bound in buckets]
    finite = tuple(bound for bound in bounds if bound != math.inf)
    is_growing = all(low < high for low, high in pairwise(finite))
    if not finite or not is_growing or not all(map(math.isfinite, finite)):
        raise ValueError(f"{name}: buckets are {bounds!r}; give growing upper bounds")
    return finite
