"""views.md is true: its program prints what it says, its table is what the classes can do."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import unanimity
from unanimity import CoordinationService, History
from unanimity._looks import ServiceLooks
from unanimity._record_frames import _KINDS
from unanimity._views.svg import _PHASES

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "views.md").read_text(encoding="utf-8")
FORMS = ("to_text", "to_json", "to_html", "to_svg", "to_pandas")


def test_its_program_runs_and_prints_what_is_shown(tmp_path: Path) -> None:
    ((program, shown),) = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.S)
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
        timeout=120,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)
    assert (tmp_path / "order-1.svg").read_text(encoding="utf-8").startswith("<svg ")
    assert '<div class="unanimity">' in (tmp_path / "order-1.html").read_text(encoding="utf-8")


def test_its_table_names_every_view_and_the_forms_that_it_has() -> None:
    rows = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("| `")]
    told = {row[0].strip(" `"): [cell.strip() == "yes" for cell in row[2:]] for row in rows}
    able = {
        name: [hasattr(getattr(unanimity, name), form) for form in FORMS]
        for name in unanimity.__all__
        if hasattr(getattr(unanimity, name), "to_html")
    }
    assert told == able


def test_every_look_of_a_service_is_on_it() -> None:
    looks = [name for name in vars(ServiceLooks) if not name.startswith("_")]
    looks += ["history", "describe", "recover"]
    assert [name for name in looks if f"service.{name}(" not in TEXT] == []
    given = set(inspect.signature(CoordinationService.latency).parameters) - {"self"}
    (shown,) = re.findall(r"`service\.latency\((.*?)\)` counts", TEXT)
    assert {one.split("=")[0].strip() for one in shown.split(",")} == given


def test_every_kind_of_rows_and_every_colour_is_on_it() -> None:
    assert [kind for kind in _KINDS if f'"{kind}"' not in TEXT] == []
    assert inspect.signature(History.to_arrow).parameters["rows"].default == "coordinations"
    legend = re.findall(r"^\| ([a-z, ]+) \| .* \| .* \|$", TEXT, re.M)
    colours = {word.strip() for line in legend for word in line.split(",")}
    assert set(_PHASES.values()) <= colours
