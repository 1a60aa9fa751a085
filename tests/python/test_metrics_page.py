"""metrics.md is true: its programs run, and its expressions name metrics that there are.

That the tables are those of the engine is `tests/engine/metrics_page.rs`.
"""

from __future__ import annotations

import re
from pathlib import Path

from page_programs import programs_of, run_program
from raft_cluster import free_ports
from unanimity import _engine

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()


def run(program: str, folder: Path) -> str:
    done = run_program(program, folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_its_program_runs_and_prints_what_is_shown(tmp_path: Path) -> None:
    ((program, shown),) = programs_of(TEXT)
    [port] = free_ports(1)
    assert run(program.replace("9464", str(port)), tmp_path) == shown


def test_the_programs_own_numbers_go_the_same_way(tmp_path: Path) -> None:
    _, program = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    lines = run(program, tmp_path).splitlines()
    assert 'mail_sent_total{kind="invoice"} 1' in lines
    assert "mail_waiting 3" in lines
    assert 'mail_seconds_bucket{le="1"} 1' in lines


def test_what_it_names_is_there_and_the_buckets_are_as_it_says() -> None:
    known = {}
    for name, kind, *_, bounds in _engine.metric_table():
        known[name] = bounds
        if kind == "histogram":
            known.update({f"{name}_{end}": bounds for end in ("bucket", "sum", "count")})
    named = set(re.findall(r"\bcoordination_\w+", TEXT.replace("coordination_service", "")))
    assert named - set(known) == {"coordination_type"}
    durations = known["coordination_transaction_duration_seconds"]
    assert durations == [
        *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
        *(1, 2.5, 5, 10, 30, 60),
    ]
    records = known["coordination_journal_batch_records"]
    assert records == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
