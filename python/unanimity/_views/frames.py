"""Tables for programs that calculate: pandas and Arrow, where these are installed.

Not what the columns are: that is for whoever has the rows. Invariants: every column has one type,
also when no row has a value in it; times are in UTC to the microsecond; without the library the
error says how to get it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from .data import as_json

_EXTRAS = {"pandas": "notebook", "pyarrow": "arrow"}


@dataclass(frozen=True)
class Column:
    """A named column: its kind, and where its value in a row comes from.

    `kind` is "text", "texts" (a list), "whole", "number", "time", "length" (of time) or "json".
    """

    name: str
    kind: str
    value: Callable[[Any], Any]


def _needed(name: str, asked: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{asked} needs {name}, which is not installed; "
            f"pip install 'unanimity[{_EXTRAS[name]}]'"
        ) from error


def to_pandas(columns: Sequence[Column], rows: Sequence[Any], asked: str = "to_pandas()") -> Any:
    """A DataFrame with a row for each of `rows`."""
    pandas = _needed("pandas", asked)
    series = {
        column.name: pandas.Series(
            [_value(column, row) for row in rows], dtype=_PANDAS[column.kind]
        )
        for column in columns
    }
    return pandas.DataFrame(series, columns=[column.name for column in columns])


def to_arrow(columns: Sequence[Column], rows: Sequence[Any], asked: str = "to_arrow()") -> Any:
    """A pyarrow Table with a row for each of `rows`."""
    arrow = _needed("pyarrow", asked)
    types = {
        "text": arrow.string(),
        "json": arrow.string(),
        "texts": arrow.list_(arrow.string()),
        "whole": arrow.int64(),
        "number": arrow.float64(),
        "time": arrow.timestamp("us", tz="UTC"),
        "length": arrow.duration("us"),
    }
    schema = arrow.schema([(column.name, types[column.kind]) for column in columns])
    arrays = [
        arrow.array([_value(column, row) for row in rows], type=types[column.kind])
        for column in columns
    ]
    return arrow.Table.from_arrays(arrays, schema=schema)


# `object` keeps what pandas has no exact type for: text, lists, and numbers that may be missing.
_PANDAS = {
    "text": "object",
    "json": "object",
    "texts": "object",
    "whole": "Int64",
    "number": "float64",
    "time": "datetime64[us, UTC]",
    "length": "timedelta64[us]",
}


def _value(column: Column, row: Any) -> Any:
    value = column.value(row)
    if value is None:
        return None
    if column.kind == "json":
        return as_json(value)
    return list(value) if column.kind == "texts" else value


def milliseconds(length: timedelta | None) -> float | None:
    """A length of time as a number of milliseconds."""
    return None if length is None else length / timedelta(milliseconds=1)


class Framed:
    """What a list of rows gets that says what its columns are."""

    __slots__ = ()

    def _frame(self) -> tuple[Sequence[Column], Sequence[Any]]:
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """Make a DataFrame, a row for each; pandas must be installed."""
        return to_pandas(*self._frame())

    def to_arrow(self) -> Any:
        """Make a pyarrow Table, a row for each; pyarrow must be installed."""
        return to_arrow(*self._frame())

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        """Hand the rows to whatever takes Arrow: polars, DuckDB, pandas; pyarrow makes them."""
        table = to_arrow(*self._frame(), asked="__arrow_c_stream__()")
        return table.__arrow_c_stream__(requested_schema)
