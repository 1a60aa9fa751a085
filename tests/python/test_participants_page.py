"""participants.md is true: its program prints what it says, and it has every store."""

from __future__ import annotations

from pathlib import Path

from page_programs import programs_of, run_program
from redis_server import RedisServer
from unanimity import stores
from unanimity.stores import NativeStore

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "participants.md").read_text()


def test_its_program_runs_and_prints_what_is_shown(tmp_path: Path, redis: RedisServer) -> None:
    ((program, shown),) = programs_of(TEXT)
    done = run_program(program, tmp_path, REDIS_URL=redis.fresh_url())
    assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)


def test_every_store_has_its_rows() -> None:
    made = [getattr(stores, name) for name in stores.__all__]
    native = [it.__name__ for it in made if issubclass(it, NativeStore)]
    assert [name for name in native if TEXT.count(f"\n| `{name}` |") != 2] == []
