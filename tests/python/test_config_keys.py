"""Every key of the configuration does what it says: one row a key, and none without a row."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import config_rows_alerts  # noqa: F401  its rows are put beside those of config_rows
import config_rows_servers  # so are these
from config_rows import ROWS, World
from unanimity import _engine

_KEYS = {key for key, _ in _engine.config_keys()}
# One test for the rows that are about several keys.
_TESTS = {function: ", ".join(k for k in ROWS if ROWS[k] is function) for function in ROWS.values()}


def test_every_key_has_a_row() -> None:
    assert set(ROWS) == _KEYS


@pytest.mark.parametrize("row", _TESTS, ids=list(_TESTS.values()))
def test_a_service_made_with_it_does_what_it_says(
    row: object, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    world = World(tmp_path, request.getfixturevalue)
    asyncio.run(row(world))  # type: ignore[operator]


def test_detection_that_is_off_leaves_a_deadlock_to_the_timeouts(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    world = World(tmp_path, request.getfixturevalue)
    off = config_rows_servers.detection_that_is_off_leaves_a_deadlock_to_the_timeouts
    asyncio.run(off(world))
