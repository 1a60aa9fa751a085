"""What the page of benchmarks, its plots and the README's table say is what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
PAGE = next((ROOT / "docs").rglob("benchmarks.md"))
KEPT = PAGE.with_suffix(".jsonl")
PRINT = """
import json, sys
from pathlib import Path
import report
facts, rows = report.read_results(Path(sys.argv[1]))
readme = Path(sys.argv[2]).read_text()
print(json.dumps([
    report.page(facts, rows),
    report.readme_with(readme, report.readme_table(rows)),
    report.plots_of(rows),
]))
"""


def made_of(kept: Path) -> tuple[str, str, dict[str, str]]:
    """The page, the README and the plots that these results give."""
    done = subprocess.run(
        [sys.executable, "-c", PRINT, str(kept), str(ROOT / "README.md")],
        capture_output=True,
        text=True,
        cwd=ROOT / "benches",
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    page, readme, plots = json.loads(done.stdout)
    return page, readme, plots


def test_the_page_the_readme_and_the_plots_are_those_of_the_results() -> None:
    page, readme, plots = made_of(KEPT)
    assert PAGE.read_text() == page
    assert (ROOT / "README.md").read_text() == readme
    kept = {path.name: path.read_text() for path in (PAGE.parent / "plots").glob("*.svg")}
    assert kept == plots


def test_other_results_give_another_table(tmp_path: Path) -> None:
    lines = KEPT.read_text().splitlines()
    first = next(at for at, line in enumerate(lines) if '"workload": "w1"' in line)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join([*lines[:first], *lines[first + 2 :]]) + "\n")
    page, readme, _ = made_of(fewer)
    assert (page, readme) != (PAGE.read_text(), (ROOT / "README.md").read_text())


@pytest.mark.parametrize(
    "path", sorted((PAGE.parent / "plots").glob("*.svg")), ids=lambda path: path.name
)
def test_every_plot_is_an_image_that_runs_nothing(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "style", "text", "rect", "line"}
    assert f"plots/{path.name}" in PAGE.read_text()
