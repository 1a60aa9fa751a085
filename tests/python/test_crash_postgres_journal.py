"""The kill matrix once more, at the points of the journal, with a journal in PostgreSQL.

The cases and the judgement are those of `test_crash_matrix`; the points of stores and locks do not
depend on the journal, so a part of them is enough. Each case has a database, and with it a journal,
of its own.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crash.points import CASES, Case
from crash.world import World
from postgres_cluster import PostgresCluster
from test_crash_matrix import AT_ONCE, troubles

OF_RECORDS = ("before_record", "before_sync", "after_record")
CHOSEN = [
    case
    for case in CASES
    if case.point.startswith(OF_RECORDS) or case.point.startswith("store_commit:postgres")
]


@pytest.fixture(scope="module")
def results(
    postgres: PostgresCluster, tmp_path_factory: pytest.TempPathFactory
) -> dict[Case, list[str]]:
    """All kills; what was wrong, by case."""
    place = tmp_path_factory.mktemp("kills")

    def one(number: int) -> list[str]:
        case = CHOSEN[number]
        database = postgres.create_database()
        postgres.query(database, "CREATE TABLE facts (name text PRIMARY KEY)")
        level = "strong" if case.is_strong else "session"
        world = World(Path(place) / str(number), postgres.dsn(database), "facts", case.index, level)
        world.make()
        try:
            return troubles(case, world)
        except subprocess.TimeoutExpired as error:
            return [f"it hangs: {error.stderr!r}"]

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(AT_ONCE) as pool:
        patch.setenv("UNANIMITY_TEST_JOURNAL", "postgres")
        return dict(zip(CHOSEN, pool.map(one, range(len(CHOSEN))), strict=True))


@pytest.mark.parametrize("case", CHOSEN, ids=[case.name for case in CHOSEN])
def test_all_stores_agree_after_a_kill_at(case: Case, results: dict[Case, list[str]]) -> None:
    assert results[case] == []
