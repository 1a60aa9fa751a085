"""The plugin for pytest that comes with the package: a row for each duty of a user's store.

    @pytest.mark.unanimity_store("my_stores:make_index", words=WORDS)
    def test_my_index_keeps_its_duties(store_duty):
        store_duty.check()

Pytest finds it by its entry point. Not the kit: that is `unanimity.testing`, imported only when a
test asks for it. Invariant: a session that asks for nothing pays for one small import.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .testing import StoreReport

MARKER = "unanimity_store"


class StoreDuty:
    """One duty of the store that the test's marker names."""

    def __init__(self, name: str, marker: pytest.Mark, folder: Path) -> None:
        """Keep what to try; the fixture `store_duty` makes this."""
        self.name = name
        self._marker = marker
        self._folder = folder

    def check(self) -> StoreReport:
        """Try the duty; raises DutyBroken, skips what the store does not have."""
        from .testing import check_store

        make_store, *arguments = self._marker.args
        placed = [
            # What every test wants: a fresh folder.
            str(one).format(tmp_path=self._folder) if isinstance(one, str) else one
            for one in arguments
        ]
        report = check_store(make_store, *placed, **{**self._marker.kwargs, "only": [self.name]})
        (result,) = report.duties
        if result.state != "kept":
            pytest.skip(f"{result.state}: {result.note}")
        return report

    def __repr__(self) -> str:
        return f"<duty {self.name}>"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    words = (
        f"{MARKER}(make_store, *arguments, words=...): the store whose duties `store_duty` tries; "
        "'{tmp_path}' in an argument is the test's own folder"
    )
    config.addinivalue_line("markers", words)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each duty."""
    if "store_duty" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker(MARKER)
    if marker is None or not marker.args:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid} asks for `store_duty`; say of which store, by "
            f'@pytest.mark.{MARKER}("module:function")'
        )
    from .testing import duty_names

    only = marker.kwargs.get("only")
    names = [name for name in duty_names() if only is None or name in only]
    metafunc.parametrize("store_duty", names, indirect=True)


@pytest.fixture
def store_duty(request: pytest.FixtureRequest, tmp_path: Path) -> StoreDuty:
    """One duty of the store that the marker `unanimity_store` names; call its `check()`."""
    marker = request.node.get_closest_marker(MARKER)
    return StoreDuty(request.param, marker, tmp_path)


@pytest.fixture
def check_store() -> Callable[..., Any]:
    """Give `unanimity.testing.check_store`."""
    from .testing import check_store

    return check_store
