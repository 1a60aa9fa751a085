"""A real node is killed at every named point of its log and its snapshots: it forgets nothing.

`crash.raft_points` has the cases. Behind the kills the node starts on what it left; everything
that was acknowledged stands, nothing can be decided otherwise, and it goes on to decide.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crash.raft_points import CASES, POINTS, RaftCase
from raft_cluster import PATIENCE, NodeDied, NodeProcess, RaftCluster, eventually

AT_ONCE = 3
CALLS_AT_ONCE = 4
CALLS_MAX = 2_000
COMPACTION = 20
SOURCE = Path(__file__).parents[2] / "src"
PLACES = ("consensus/raft", "db/segments")

Told = dict[str, str]
"""What was acknowledged."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[RaftCase, BaseException | None]:
    """All kills, some at once; what went wrong, by case."""
    place = tmp_path_factory.mktemp("kills")

    def one(number: int) -> BaseException | None:
        folder = place / str(number)
        folder.mkdir()
        try:
            kill_and_judge(CASES[number], folder)
        except Exception as error:  # a failed assertion too: it is raised where it is asked for
            return error
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(CASES, pool.map(one, range(len(CASES))), strict=True))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_nothing_acknowledged_is_lost_after_a_kill_at(
    case: RaftCase, results: dict[RaftCase, BaseException | None]
) -> None:
    if error := results[case]:
        raise error


def test_every_named_point_of_the_log_and_of_snapshots_has_a_case() -> None:
    named = re.compile(r'crash::point\(\s*"(\w+)",\s*"(\w+)"')
    files = [path for place in PLACES for path in (SOURCE / place).rglob("*.rs")]
    found = {":".join(point) for path in files for point in named.findall(path.read_text())}
    assert found == set(POINTS)
    assert found == {point.partition("#")[0] for case in CASES for point in case.points}


# ---- one case -----------------------------------------------------------------------------------


def kill_and_judge(case: RaftCase, folder: Path) -> None:
    cluster = RaftCluster(
        folder, ["a"] if case.is_alone else "abc", log_compaction_threshold=COMPACTION
    )
    told: Told = {}
    names = iter([f"t{number}" for number in range(CALLS_MAX)])
    with contextlib.ExitStack() as stack:
        if case.is_alone:
            # Armed from its first write on.
            stack.callback(cluster.close)
            victim = cluster.nodes["a"]
        else:
            stack.enter_context(cluster)
            victim = cluster.others(cluster.leader())[0]
            victim.kill()
        if case.is_behind:
            pass_by(cluster, names, told)
        for point in case.points:
            die_at(point, cluster, victim, case, names, told)
        # As in a loss of power: what stands has to be on disks.
        for node in cluster.nodes.values():
            node.kill()
        cluster.start()
        cluster.leader()
        for node in cluster.nodes.values():
            judge(node, told, next(names))


def pass_by(cluster: RaftCluster, names: Iterator[str], told: Told) -> None:
    """Have the others compact their logs, so that what a node lacks is in their snapshot only."""
    node = next(each for each in cluster.nodes.values() if each.is_running)
    passed = 0
    while passed < 4 * COMPACTION:
        name = next(names)
        if node.ask("propose", name, "COMMIT", {}):
            told[name] = "COMMIT"
            passed += 1


def die_at(
    point: str,
    cluster: RaftCluster,
    victim: NodeProcess,
    case: RaftCase,
    names: Iterator[str],
    told: Told,
) -> None:
    """Start the node, to be killed at that point, and propose until it is."""
    victim.environment = {"UNANIMITY_CRASH_AT": point}
    victim.spawn()
    victim.environment = {}
    with contextlib.suppress(NodeDied):
        victim.ask("start")
        propose_until_death(cluster, victim, case, names, told)
        raise AssertionError(f"{point} was not reached")
    assert victim.ended() == -signal.SIGKILL, f"{point}: {victim.log()[-2000:]}"


def propose_until_death(
    cluster: RaftCluster, victim: NodeProcess, case: RaftCase, names: Iterator[str], told: Told
) -> None:
    """Some calls at once, all at the node that is to die, or in turn at all that are there."""
    nodes = [victim] if case.is_alone else list(cluster.nodes.values())
    evidence = {"e": "x" * case.evidence_bytes}
    for _ in range(CALLS_MAX // CALLS_AT_ONCE // 2):
        calls = []
        for number in range(CALLS_AT_ONCE):
            name, decision = next(names), "ABORT" if number % 2 else "COMMIT"
            node = nodes[number % len(nodes)]
            calls.append((name, decision, node.begin("propose", name, decision, evidence)))
        deaths = []
        for name, decision, answer in calls:
            try:
                if answer.result(PATIENCE):
                    told[name] = decision
            except NodeDied as death:
                deaths.append(death)
        if deaths:
            raise deaths[0]


def judge(node: NodeProcess, told: Told, fresh: str) -> None:
    """Everything acknowledged is there and stands, and the node goes on."""
    for name, decision in told.items():
        found = node.insist("read", name)
        assert found is not None and found["decision"] == decision, f"{name}: {found}"
    if told:
        name, decision = next(iter(told.items()))
        assert not node.ask("propose", name, "ABORT" if decision == "COMMIT" else "COMMIT", {})
    eventually(lambda: bool(node.ask("propose", fresh, "COMMIT", {})), "it decides")
