"""Runs the benchmarks: every case in a fresh process, ours and the peers in turn.

    python benches/run.py [WORKLOAD ...] [--rounds 5] [--seconds 0.8] [--quick]

Writes `target/bench/results.jsonl` (the facts of the machine, then one row for each run) and a
table to the screen. Workloads that are picked replace their own rows there; those of others stay.
Invariants: within a round all subjects of a workload run right after each
other, and each round begins with another one, so that the machine's mood meets all alike; what
cannot run is named with its reason and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etcd_servers import EtcdCluster
from facts import machine_facts
from lock_servers import LockDatabase, LockEnsemble
from plan import WORKLOADS, Subject, Workload
from report import screen_table
from restate_server import RestateServer
from server import NoServer, Server

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "target" / "bench" / "results.jsonl"
PEERS_PYTHON = ROOT / "target" / "bench-peers-venv" / "bin" / "python"
_CASE_SECONDS_MAX = 300
_ERROR = re.compile(r"[\w.]+(Error|Exception|Closed): ")
Row = dict[str, Any]
AnyServer = Server | LockDatabase | LockEnsemble | RestateServer | EtcdCluster
_SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[AnyServer]]] = {
    "accounts": Server,
    "account": lambda: Server(changed=1),
    "database": LockDatabase,
    "zookeeper": LockEnsemble,
    "restate": RestateServer,
    "etcd": EtcdCluster,
}


def main() -> None:
    """Run what was chosen."""
    given = _arguments()
    chosen = [each for each in WORKLOADS if not given.workloads or each.name in given.workloads]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    given.folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    kept = _rows_of_others({each.name for each in chosen})
    with RESULTS.open("w") as results:
        facts = {**machine_facts(given.folder), "rounds": given.rounds, "seconds": given.seconds}
        _write(results, {"facts": {**facts, "quick": given.quick}})
        for row in kept:
            _write(results, row)
        for workload in chosen:
            rows = []
            for row in _rounds(workload, given):
                _write(results, row)
                rows.append(row)
                failed += "failed" in row
            print(screen_table(workload, rows), flush=True)
    print(f"written to {RESULTS.relative_to(ROOT)}; `make bench-docs` makes the page of it")
    raise SystemExit(1 if failed else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks beside their peers.")
    names = [each.name for each in WORKLOADS]
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(names))
    parser.add_argument("--rounds", type=int, help="runs of each case (5; quick: 1)")
    parser.add_argument("--seconds", type=float, help="length of a run (0.8; quick: 0.2)")
    parser.add_argument("--count", type=int, help="how many, where a workload has a number")
    parser.add_argument("--quick", action="store_true", help="only see that everything runs")
    parser.add_argument("--folder", type=Path, help="where journals are written (target/bench)")
    given = parser.parse_args()
    if unknown := set(given.workloads) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: not a workload; there are {', '.join(names)}")
    given.rounds = given.rounds or (1 if given.quick else 5)
    given.seconds = given.seconds or (0.2 if given.quick else 0.8)
    given.folder = given.folder or RESULTS.parent
    return given


def _rows_of_others(chosen: set[str]) -> list[Row]:
    """The rows that stand from an earlier run, of workloads that are not run now."""
    if not RESULTS.exists():
        return []
    rows: list[Row] = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return [row for row in rows if "facts" not in row and row["workload"] not in chosen]


def _write(results: Any, row: Row) -> None:
    results.write(json.dumps(row) + "\n")
    results.flush()


def _rounds(workload: Workload, given: argparse.Namespace) -> Iterator[Row]:
    """Run a workload's subjects in turn, in every round for every number of callers."""
    with contextlib.ExitStack() as stack:
        servers = _servers(stack, workload)
        able = []
        for subject in workload.subjects:
            if reason := _reason_against(subject, servers[_server_name(workload, subject)]):
                yield _failure(workload, subject, reason)
            else:
                able.append(subject)
        for number in range(given.rounds):
            for callers in workload.callers:
                for subject in _in_turn(able, number):
                    if subject.sweeps and callers != workload.callers[0]:
                        continue
                    if number and not subject.per_round:
                        continue
                    _progress(
                        f"{workload.name} {number + 1}/{given.rounds} {callers} {subject.name}"
                    )
                    about = {"workload": workload.name, "round": number}
                    server = servers[_server_name(workload, subject)]
                    assert not isinstance(server, NoServer), "it is not among the able"
                    for row in _run(workload, subject, callers, given, server):
                        yield {**about, "subject": subject.name, "callers": callers, **row}
    _progress("")


def _server_name(workload: Workload, subject: Subject) -> str:
    return subject.server or workload.server


def _servers(
    stack: contextlib.ExitStack, workload: Workload
) -> dict[str, AnyServer | NoServer | None]:
    """Start each server that a subject needs; where one cannot start, the reason stands for it."""
    servers: dict[str, AnyServer | NoServer | None] = {"": None}
    for subject in workload.subjects:
        name = _server_name(workload, subject)
        if name not in servers:
            try:
                servers[name] = stack.enter_context(_SERVERS[name]())
            except NoServer as error:
                servers[name] = error
    return servers


def _reason_against(subject: Subject, server: AnyServer | NoServer | None) -> str | None:
    """Why a subject cannot run; None when it can."""
    if subject.is_apart and not PEERS_PYTHON.exists():
        return "it is not installed; `make bench-peers` installs it"
    return str(server) if isinstance(server, NoServer) else None


def _in_turn(subjects: list[Subject], number: int) -> list[Subject]:
    first = number % max(1, len(subjects))
    return subjects[first:] + subjects[:first]


def _failure(workload: Workload, subject: Subject, reason: object) -> Row:
    return {"workload": workload.name, "subject": subject.name, "failed": str(reason)}


def _run(
    workload: Workload,
    subject: Subject,
    callers: int,
    given: argparse.Namespace,
    server: AnyServer | None,
) -> list[Row]:
    """Run one case in its own process and its own folder."""
    folder = Path(tempfile.mkdtemp(prefix="case-", dir=given.folder))
    python = str(PEERS_PYTHON) if subject.is_apart else sys.executable
    command = [python, "-m", subject.module, "--subject", subject.name]
    command += ["--callers", str(callers), "--seconds", str(given.seconds)]
    command += ["--warm-up", str(given.seconds / 4), "--folder", str(folder)]
    command += ["--count", str(_count(workload, given))]
    try:
        if server is not None:
            command += server.prepared_anew()
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
            cwd=ROOT,
            timeout=_CASE_SECONDS_MAX,
        )
        if done.returncode != 0:
            return [{"failed": _reason(done)}]
        if server is not None:
            server.check()
        return [json.loads(line) for line in done.stdout.splitlines()]
    except (subprocess.TimeoutExpired, RuntimeError) as error:
        return [{"failed": str(error)}]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The line that names the error; what asyncio says of other tasks comes after it."""
    lines = done.stderr.strip().splitlines()
    named = [line for line in lines if _ERROR.match(line)]
    return (named or lines or [f"exit code {done.returncode}"])[-1]


def _count(workload: Workload, given: argparse.Namespace) -> int:
    count: int = given.count or (workload.count // 100 if given.quick else workload.count)
    return max(1, count)


def _environment() -> dict[str, str]:
    """Let cases find the package where it was built, and the modules beside this one."""
    package = os.environ.get("BENCH_PACKAGE", str(ROOT / "python"))
    path = os.pathsep.join([package, str(ROOT / "benches")])
    return {**os.environ, "PYTHONPATH": path}


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
