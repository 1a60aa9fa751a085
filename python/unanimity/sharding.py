"""Which of several journals, or clusters, an id belongs to. Not a router: it moves nothing.

Highest random weight hashing (Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous",
1996): each name is weighed together with the id, and the heaviest wins. So everybody who knows the
names gives the same answer without asking anybody, and when a name is added or goes, only the ids
that it wins or had won change their place.

Invariant: the answer depends on the id and the set of names alone, and not on their order, the
process, or Python's own hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

__all__ = ["shard_of", "shards_of"]


def shard_of(coordination_id: str, names: Iterable[str]) -> str:
    """Give the name that an id belongs to.

    An id must be asked for where it began for as long as anybody may ask for it: change the names
    only when what has other ids' places is over, or look in the old place too.

    Args:
        coordination_id: the id, or whatever part of it shall stay together, such as a customer's.
        names: of journals or clusters; at least one, each once.

    Raises:
        ValueError: there are no names.
    """
    return shards_of(coordination_id, names, 1)[0]


def shards_of(coordination_id: str, names: Iterable[str], count: int) -> list[str]:
    """Give the `count` names that weigh most, the heaviest first, such as the places of copies.

    Raises:
        ValueError: there are fewer names, or `count` is below one.
    """
    key = coordination_id.encode()
    weighed = sorted({name: _weight(key, name) for name in names}.items(), key=_heaviest_first)
    if not 1 <= count <= len(weighed):
        raise ValueError(f"{count} of {len(weighed)} names were asked for; give more names")
    return [name for name, _ in weighed[:count]]


def _weight(key: bytes, name: str) -> bytes:
    # The length keeps ("ab", "c") and ("a", "bc") apart.
    return blake2b(len(key).to_bytes(4, "big") + key + name.encode(), digest_size=8).digest()


def _heaviest_first(weighed: tuple[str, bytes]) -> tuple[int, str]:
    return -int.from_bytes(weighed[1], "big"), weighed[0]
