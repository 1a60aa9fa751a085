"""alerting.md is true: its programs print what it says, and its rules and keys are all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from page_programs import run_program
from unanimity import CoordinationConfig
from unanimity._alert_rules import RULES
from unanimity._webhook_delivery import signature

TEXT = (Path(__file__).parents[2] / "docs" / "operate" / "alerting.md").read_text()
PROGRAMS = re.findall(r"```python\n([^`]*)```\n\n```text\n([^`]*)```", TEXT)
ALONE = [
    program
    for program in re.findall(r"```python\n([^`]*)```\n", TEXT)
    if program not in dict(PROGRAMS)
]


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_its_programs_run_and_print_what_is_shown(number: int, tmp_path: Path) -> None:
    program, shown = PROGRAMS[number]
    done = run_program(program, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)


def test_its_receiver_knows_our_posts_from_others() -> None:
    (program,) = ALONE
    names: dict[str, object] = {}
    exec(program, names)
    is_ours = names["is_ours"]
    assert callable(is_ours)
    header = signature(b"swordfish", 1_700_000_000, b"{}")
    assert is_ours(b"swordfish", header, b"{}")
    assert not is_ours(b"swordfish", header, b"[]")
    assert not is_ours(b"another", header, b"{}")
    assert not is_ours(b"swordfish", header.replace("t=17", "t=18"), b"{}")


def test_it_has_every_rule_with_its_severity_threshold_and_default() -> None:
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(#\w+\) \| (\w+) \| [^|]* \| (?:`(\w+)`)? ?\| ([\d.]*) ?\|$", TEXT, re.M
    )
    assert [(name, severity) for name, severity, _, _ in rows] == [
        (rule.name, rule.severity) for rule in RULES
    ]
    assert re.findall(r"^### (\w+_?\w*)$", TEXT, re.M) == [rule.name for rule in RULES]
    alerts = CoordinationConfig.from_mapping({}, environment={}).monitoring.alerts
    for name, _, key, default in rows:
        if key:
            assert float(default) == getattr(alerts, key), name


def test_it_names_every_key() -> None:
    alerts = CoordinationConfig.from_mapping({}, environment={}).monitoring.alerts
    named = [key for key in alerts if f"{key}" not in TEXT and key != "evaluation_interval_seconds"]
    assert named == []
