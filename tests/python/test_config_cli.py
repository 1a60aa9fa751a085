"""`unanimity config check` and `config show`, and `--config` of the other verbs, as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from test_cli import journal as journal  # a fixture
from test_config import DESIGN


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as people do."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "unanimity", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


@pytest.fixture
def design(tmp_path: Path) -> str:
    path = tmp_path / "design.yaml"
    path.write_text(DESIGN)
    return str(path)


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    path = tmp_path / "wrong.yaml"
    path.write_text("coordination_service:\n  timeout: {}\n  secret: hunter2\n")
    return str(path)


def test_check_of_a_right_file_says_so_and_notes_what_is_missing(design: str) -> None:
    done = run("config", "check", design)
    assert (done.returncode, done.stderr) == (0, "")
    first, *notes = done.stdout.splitlines()
    assert first == f"{design}: 30 settings, all right"
    assert all(note.startswith("note: ") for note in notes)
    assert "node_id is not given" in notes[-1]
    named = run("config", "check", design, UNANIMITY_NODE_ID="coordination-node-1:7000")
    assert "node_id" not in named.stdout


def test_check_tells_every_problem_with_its_line_and_exits_with_1(wrong: str) -> None:
    done = run("config", "check", wrong)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{wrong}:2: timeout is unknown; did you mean timeouts?"
    assert lines[1].startswith(f"{wrong}:3: secret has 7 bytes;") and len(lines) == 2
    as_json: dict[str, Any] = json.loads(run("config", "check", wrong, "--json").stdout)
    assert [problem["line"] for problem in as_json["problems"]] == [2, 3]
    assert "hunter2" not in done.stdout + str(as_json)


def test_check_reads_the_environment_too(design: str) -> None:
    done = run("config", "check", design, UNANIMITY_CONSENSUS_HEARTBEAT_INTERVAL_MS="4000")
    assert done.returncode == 1
    assert done.stdout.startswith(
        "UNANIMITY_CONSENSUS_HEARTBEAT_INTERVAL_MS: consensus.heartbeat_interval_ms is 4000"
    )


def test_show_tells_each_value_and_where_it_is_from(design: str) -> None:
    done = run("config", "show", design, "--origin", UNANIMITY_PERFORMANCE_BATCH_SIZE="7")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["performance.batch_size"] == ["7", "UNANIMITY_PERFORMANCE_BATCH_SIZE"]
    assert rows["timeouts.prepare_phase_timeout_seconds"] == ["30", f"{design}:38"]
    assert rows["retention.finished_days"] == ["30", "default"]
    shown = "postgresql://user:***@localhost:5432/memory_os"
    assert rows["database.connection_string"] == [shown, f"{design}:5"]
    without = run("config", "show", design).stdout
    assert "default" not in without.split() and f"{design}:5" not in without


def test_show_as_json_is_a_configuration_or_a_list_with_origins(design: str) -> None:
    plain: dict[str, Any] = json.loads(run("config", "show", design, "--json").stdout)
    assert plain["coordination_service"]["performance"]["batch_size"] == 50
    rows = json.loads(run("config", "show", design, "--json", "--origin").stdout)
    assert {"key", "value", "origin", "where", "line", "through"} == set(rows[0])
    assert "pass@" not in str(plain) + str(rows)


@pytest.mark.parametrize("what", ["check", "show"])
def test_a_file_that_is_not_there_is_one_line(what: str, tmp_path: Path) -> None:
    done = run("config", what, str(tmp_path / "nowhere.yaml"))
    lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 1 and len(lines) == 1 and "cannot be read" in lines[0]


def test_a_wrong_use_exits_with_2() -> None:
    assert run("config").returncode == run("config", "mend", "x").returncode == 2


def test_the_other_verbs_find_the_journal_by_the_configuration(
    journal: str, tmp_path: Path, design: str
) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(f"coordination_service:\n  journal: {journal}\n")
    by_config = run("list", "--config", str(path), "--json")
    assert (by_config.returncode, by_config.stderr) == (0, "")
    assert by_config.stdout == run("list", "--journal", journal, "--json").stdout
    # What is given beside it wins.
    nowhere = run("list", "--config", str(path), "--journal", str(tmp_path / "nowhere.db"))
    assert nowhere.returncode == 1 and "nowhere.db" in nowhere.stderr
    in_cluster = run("list", "--config", design)
    assert in_cluster.returncode == 1 and "cluster" in in_cluster.stderr
    shown = run("show", "good", "--config", str(path))
    assert shown.returncode == 0 and "committed" in shown.stdout


def test_a_wrong_configuration_stops_any_verb(wrong: str) -> None:
    done = run("status", "--config", wrong)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "did you mean timeouts?" in done.stderr and "hunter2" not in done.stderr


def test_deadlocks_and_locks_ask_the_configured_server(tmp_path: Path, postgres: Any) -> None:
    path = tmp_path / "locks.yaml"
    dsn = postgres.dsn(postgres.create_database())
    path.write_text(
        "coordination_service:\n  lock_manager: {backend: postgres}\n"
        f"  database: {{connection_string: '{dsn}'}}\n"
    )
    done = run("deadlocks", "--config", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert run("locks", "--config", str(path)).stdout == "nobody holds a lock\n"


def test_recover_is_made_of_the_configuration(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(f"coordination_service:\n  journal: {journal}\n")
    store = f"left=files:{tmp_path / 'files'}"
    done = run("recover", "--config", str(path), "--store", store)
    assert (done.returncode, done.stderr) == (0, "")
