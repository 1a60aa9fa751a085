"""docs/operate/cluster.md is true: its program prints what it says, and every argument is on it."""

from __future__ import annotations

import inspect
from pathlib import Path

from page_programs import programs_of, run_program
from raft_cluster import free_ports
from unanimity import RaftConsensusService

TEXT = (Path(__file__).parents[2] / "docs" / "operate" / "cluster.md").read_text()


def test_its_program_runs_and_prints_what_is_shown(tmp_path: Path) -> None:
    ((program, shown),) = programs_of(TEXT)
    [port] = free_ports(1)
    done = run_program(program.replace("7801", str(port)), tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)


def test_what_a_node_is_given_and_can_do_is_on_it() -> None:
    given = set(inspect.signature(RaftConsensusService).parameters)
    told = {"data_dir", "tls", "secret", "insecure", "cluster", "log_compaction_threshold"}
    assert told <= given
    able = {"add_node", "remove_node", "transfer_leadership", "status", "log_entries"}
    assert [name for name in sorted(told | able) if name not in TEXT] == []
