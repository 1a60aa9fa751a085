"""examples/tour.ipynb runs from top to bottom, and keeps the outputs of such a run.

`UPDATE_DOCS=1` writes the outputs of this run into it. Not what each output holds: that is for the
tests of the views.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parents[2] / "examples" / "tour.ipynb"
# What no reader needs, or what is the machine's own.
_KEPT_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
}


def read() -> Any:
    return nbformat.read(TOUR, as_version=4)  # type: ignore[no-untyped-call]


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any, kind: str) -> list[Any]:
    return [out for cell in code_cells(notebook) for out in cell.outputs if out.output_type == kind]


@pytest.fixture(scope="module")
def executed() -> Any:
    notebook = read()
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True).execute()
    for cell in notebook.cells:
        cell.metadata = {}
    notebook.metadata = {**_KEPT_METADATA, "language_info": {"name": "python"}}
    if os.environ.get("UPDATE_DOCS"):
        nbformat.write(notebook, TOUR)  # type: ignore[no-untyped-call]
    return notebook


def test_it_runs_without_an_error_and_without_a_warning(executed: Any) -> None:
    assert [(out.ename, out.evalue) for out in outputs(executed, "error")] == []
    assert [out.text for out in outputs(executed, "stream") if out.name == "stderr"] == []


def test_every_kind_of_view_is_in_it(executed: Any) -> None:
    shown = "".join(
        out.data.get("text/html", "")
        for kind in ("execute_result", "display_data")
        for out in outputs(executed, kind)
    )
    for words in ("order-1", "trip-1", "accounts/2", "deadlock", "p99", "two_phase_commit"):
        assert words in shown, words
    assert shown.count("data:image/svg+xml") >= 5
    assert "<script" not in shown


def test_the_outputs_that_are_kept_are_of_a_whole_run() -> None:
    kept = read()
    counts = [cell.execution_count for cell in code_cells(kept)]
    assert counts == list(range(1, len(counts) + 1)), "run it again with UPDATE_DOCS=1"
    assert outputs(kept, "error") == []
    assert not re.search(r"/(home|root|work|tmp|Users)/", TOUR.read_text(encoding="utf-8"))


def test_its_outputs_have_the_same_kinds_as_those_of_this_run(executed: Any) -> None:
    def kinds(notebook: Any) -> list[list[str]]:
        return [
            [" ".join(sorted(out.get("data", {out.get("name"): 0}))) for out in cell.outputs]
            for cell in code_cells(notebook)
        ]

    assert kinds(read()) == kinds(executed)
