"""Ids find their place: the same everywhere, evenly, and only what has to moves."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import pytest

from unanimity.sharding import shard_of, shards_of

_NAMES = [f"journal-{number}" for number in range(10)]
_IDS = [f"order-{number}" for number in range(10_000)]


def test_the_place_depends_on_neither_order_nor_process() -> None:
    shuffled = random.Random(7).sample(_NAMES, len(_NAMES))
    places = [shard_of(each, _NAMES) for each in _IDS[:200]]
    assert places == [shard_of(each, shuffled) for each in _IDS[:200]]
    code = f"from unanimity.sharding import shard_of; print(shard_of('order-1', {_NAMES}))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == shard_of("order-1", _NAMES)


def test_a_known_id_stays_where_it_was_in_earlier_versions() -> None:
    places = [shard_of(f"order-{number}", ["a", "b", "c"]) for number in range(6)]
    assert places == ["b", "a", "b", "a", "a", "b"]


def test_each_name_gets_its_share() -> None:
    shares = Counter(shard_of(each, _NAMES) for each in _IDS)
    assert len(shares) == len(_NAMES)
    # The binomial deviation of a tenth of 10,000 is 30: five of them hold in practice always.
    assert all(abs(share - 1_000) < 150 for share in shares.values())


def test_only_what_a_new_name_wins_moves_and_only_what_a_lost_one_had() -> None:
    before = {each: shard_of(each, _NAMES) for each in _IDS}
    grown = {each: shard_of(each, [*_NAMES, "new"]) for each in _IDS}
    moved = [each for each in _IDS if grown[each] != before[each]]
    assert {grown[each] for each in moved} == {"new"}
    shrunk = {each: shard_of(each, _NAMES[1:]) for each in _IDS}
    assert all(shrunk[each] == before[each] for each in _IDS if before[each] != _NAMES[0])


def test_copies_are_on_different_names_and_the_first_is_the_place() -> None:
    for each in _IDS[:100]:
        places = shards_of(each, _NAMES, 3)
        assert len(set(places)) == 3 and places[0] == shard_of(each, _NAMES)


@pytest.mark.parametrize(("names", "count"), [([], 1), (["a"], 2), (["a"], 0)])
def test_too_few_names_are_refused(names: list[str], count: int) -> None:
    with pytest.raises(ValueError, match="names were asked for"):
        shards_of("order-1", names, count)
