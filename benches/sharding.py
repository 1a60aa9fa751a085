"""A hundred nodes, simulated: how evenly groups of three share them, and what a dead node costs.

    python benches/sharding.py [--nodes 100] [--groups 100] [--seed 1]    # prints tables

Ids go to Raft groups by `unanimity.sharding`, groups to three nodes by the same function, and the
first of a group's nodes that is alive leads it. Time, chance and the nodes are simulated; what a
coordination costs its leader and its followers, and how long a group is without a leader, are given
as arguments and were measured (`docs/reference/benchmarks.md`). Not a simulation of Raft: that is
`src/simulated_cluster`.

Invariant: the same arguments give the same tables, to the byte.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from unanimity.sharding import shard_of, shards_of

_COPIES = 3


@dataclass(frozen=True)
class Costs:
    """Processor time for one coordination, in microseconds, and how long a group has no leader."""

    leader_us: float
    follower_us: float
    failover_seconds: float
    cores: int


@dataclass(frozen=True)
class Load:
    """How work falls on the nodes."""

    busiest: float
    """Times the mean."""
    idlest: float
    rate: float
    """Coordinations a second, when the busiest node has no core left."""


@dataclass(frozen=True)
class Failure:
    """What one dead node does."""

    waiting_share: float
    """Share of the coordinations that have no leader for the time of a failover."""
    after: Load


class Fleet:
    """Nodes, and the groups that live on them."""

    def __init__(self, nodes: int, groups: int) -> None:
        self.nodes = [f"node-{number:03d}" for number in range(nodes)]
        self.groups = {
            name: shards_of(name, self.nodes, _COPIES)
            for name in (f"group-{number:05d}" for number in range(groups))
        }

    def load(self, by_group: Counter[str], costs: Costs, dead: str | None = None) -> Load:
        """Add up what each living node does."""
        total = sum(by_group.values())
        busy = dict.fromkeys((node for node in self.nodes if node != dead), 0.0)
        for group, count in by_group.items():
            alive = [node for node in self.groups[group] if node != dead]
            busy[alive[0]] += count * costs.leader_us
            for follower in alive[1:]:
                busy[follower] += count * costs.follower_us
        mean = sum(busy.values()) / len(busy)
        # The busiest node's processors give the time that the whole sample takes.
        seconds = max(busy.values()) / 1e6 / costs.cores
        return Load(max(busy.values()) / mean, min(busy.values()) / mean, total / seconds)

    def without(self, dead: str, by_group: Counter[str], costs: Costs) -> Failure:
        """Kill a node: what it led waits, and is then led by the next of each group."""
        led = sum(count for group, count in by_group.items() if self.groups[group][0] == dead)
        return Failure(led / sum(by_group.values()), self.load(by_group, costs, dead))


def ids_of(count: int, customers: int, skew: float, seed: int) -> Iterable[str]:
    """Ids that stay together by customer; customers differ in size by Zipf's law."""
    chance = random.Random(seed)
    if not customers:
        return (f"{chance.getrandbits(64):016x}" for _ in range(count))
    weights = [1 / (rank + 1) ** skew for rank in range(customers)]
    return (f"customer-{each}" for each in chance.choices(range(customers), weights, k=count))


def tables(nodes: int, costs: Costs, count: int, seed: int) -> str:
    """Everything, as Markdown."""
    lines = [
        "| groups | ids | busiest node | idlest node | per second | waits when one dies "
        "| busiest then | per second then |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    kinds = {
        "by chance": (0, 0.0),
        "of 10,000 customers, alike": (10_000, 0.0),
        "of 10,000 customers, Zipf 0.8": (10_000, 0.8),
    }
    for groups in (nodes, nodes * 4, nodes * 16):
        fleet = Fleet(nodes, groups)
        for name, (customers, skew) in kinds.items():
            places: dict[str, str] = {}
            by_group: Counter[str] = Counter()
            for each in ids_of(count, customers, skew, seed):
                if customers and each in places:
                    by_group[places[each]] += 1
                    continue
                places[each] = _place(each, fleet)
                by_group[places[each]] += 1
            lines.append(_line(groups, name, fleet, by_group, costs))
    return "\n".join(lines)


def _place(each: str, fleet: Fleet) -> str:
    """Two steps, as a fleet of thousands of groups would do it: a hundred names at a time."""
    names = list(fleet.groups)
    width = 100
    blocks = {str(start): names[start : start + width] for start in range(0, len(names), width)}
    return shard_of(each, blocks[shard_of(each, blocks)])


def _line(groups: int, name: str, fleet: Fleet, by_group: Counter[str], costs: Costs) -> str:
    load = fleet.load(by_group, costs)
    failures = [fleet.without(node, by_group, costs) for node in fleet.nodes[:20]]
    worst = max(failures, key=lambda failure: failure.after.busiest)
    waits = max(failure.waiting_share for failure in failures)
    return (
        f"| {groups:,} | {name} | {load.busiest:.2f}x | {load.idlest:.2f}x | {load.rate:,.0f} "
        f"| {waits:.1%} for {costs.failover_seconds:g} s | {worst.after.busiest:.2f}x "
        f"| {worst.after.rate:,.0f} |"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Groups of three on many nodes, simulated.")
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--count", type=int, default=100_000, help="coordinations of the sample")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--leader-us", type=float, default=60.0)
    parser.add_argument("--follower-us", type=float, default=25.0)
    parser.add_argument("--failover-seconds", type=float, default=1.3)
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    if given.nodes < _COPIES:
        parser.error(f"{given.nodes} nodes cannot hold {_COPIES} copies; give at least {_COPIES}")
    costs = Costs(given.leader_us, given.follower_us, given.failover_seconds, given.cores)
    print(f"seed {given.seed}, {given.nodes} nodes, {given.count:,} coordinations\n")
    print(tables(given.nodes, costs, given.count, given.seed))


if __name__ == "__main__":
    main()
