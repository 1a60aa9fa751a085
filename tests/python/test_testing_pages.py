"""testing.md and your-own-store.md are true: their programs print what they show.

A block that begins with the name of a file is that file, for the programs behind it.
UPDATE_DOCS=1 writes the table of duties, otherwise it is compared.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from http_node import free_port, wait_until_open
from unanimity.testing._check import _duties

DOCS = Path(__file__).parents[2] / "docs" / "how-to"
PAGES = ("testing.md", "your-own-store.md")
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.S)
FILE = re.compile(r"# (\w+\.py)\n")


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((DOCS / page).read_text())


def write_files(page: str, folder: Path) -> None:
    for text, _ in blocks(page):
        if named := FILE.match(text):
            (folder / named[1]).write_text(text)


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The application of the page, served by uvicorn as the page says."""
    write_files("your-own-store.md", tmp_path)
    port = free_port()
    environment = {"ORDERS_TOKEN": "secret", "ORDERS_URL": f"http://127.0.0.1:{port}"}
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "orders:app", "--port", str(port)],
        cwd=tmp_path,
        env={**os.environ, **environment},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_open(port)
        yield environment
    finally:
        server.terminate()
        server.wait(30)


PROGRAMS = [
    (page, index)
    for page in PAGES
    for index, (text, _) in enumerate(blocks(page))
    if not FILE.match(text)
]


@pytest.mark.parametrize(("page", "index"), PROGRAMS)
def test_every_program_prints_what_is_shown(
    page: str, index: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    text, shown = blocks(page)[index]
    write_files(page, tmp_path)
    environment = request.getfixturevalue("orders") if "ORDERS_URL" in text else {}
    done = run(tmp_path, "-c", text, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert shown and done.stdout == shown


def test_the_test_of_the_page_passes(tmp_path: Path) -> None:
    for page in PAGES:
        write_files(page, tmp_path)
    done = run(tmp_path, "-m", "pytest", "-q", "test_ledger.py", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert "24 passed, 9 skipped" in done.stdout


def test_the_table_of_duties_is_the_kit() -> None:
    page = DOCS / "testing.md"
    rows = "".join(f"| `{duty.name}` | {duty.promise} |\n" for duty in _duties())
    table = f"<!-- duties -->\n| duty | promise |\n| --- | --- |\n{rows}<!-- /duties -->"
    text = page.read_text()
    written = re.sub(r"<!-- duties -->.*<!-- /duties -->", lambda _: table, text, flags=re.S)
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(written)
    assert page.read_text() == written


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        text = (DOCS / page).read_text()
        headings = {
            re.sub(r"[^\w -]", "", line.lower()).strip().replace(" ", "-")
            for line in re.findall(r"^#+ (.*)$", text, re.M)
        }
        for link in re.findall(r"\]\(([^)]+)\)", text):
            place, _, anchor = link.partition("#")
            assert not place or (DOCS / place).exists(), link
            assert place or anchor in headings, link
