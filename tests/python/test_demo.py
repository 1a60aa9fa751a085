"""The main job on real documents: stored, killed in the middle, recovered, in agreement."""

from __future__ import annotations

import json
from pathlib import Path

from test_cli import run, run_json
from unanimity.cli.archive import digest_of, find_documents, torn


def documents(folder: Path, count: int) -> Path:
    source = folder / "documents"
    for number in range(count):
        path = source / f"part {number % 3}" / f"{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Title {number}\n\nsome words of number {number}, größer\n" * 5)
    return source


def test_the_demo_proves_that_all_three_stores_agree(tmp_path: Path) -> None:
    told = run_json("demo", str(documents(tmp_path, 60)), "--width", "8")
    assert (told["documents"], told["agree"], told["faults"]) == (60, True, [])
    assert [store["documents"] for store in told["whole"]["stores"]] == [60, 60, 60]
    assert told["killed_in_the_middle_of"] in told["torn_moment"]["torn"]
    after = told["recovered"]
    assert len({(store["documents"], store["digest"]) for store in after["stores"]}) == 1
    assert [store["prepared"] for store in after["stores"]] == [0, 0, 0]
    assert after["torn"] == [] and after["open"] == {}
    assert told["acknowledged_before_the_kill"] <= after["stores"][0]["documents"] <= 60


def test_the_demo_runs_on_a_single_document_and_tells_it_in_words(tmp_path: Path) -> None:
    done = run("demo", str(documents(tmp_path, 1)), "--into", str(tmp_path / "kept"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "All three stores agree: 1 of 1" in done.stdout
    assert (tmp_path / "kept" / "killed" / "journal.db").is_file()
    again = run("demo", str(tmp_path / "documents"), "--into", str(tmp_path / "kept"))
    assert again.returncode == 1
    assert "not an empty folder" in again.stderr


def test_the_demo_takes_the_packages_own_files_by_default() -> None:
    told = json.loads(run("demo", "--limit", "5", "--json").stdout)
    assert (told["documents"], told["agree"]) == (5, True)


def test_hidden_files_links_and_empty_files_are_no_documents(tmp_path: Path) -> None:
    source = documents(tmp_path, 2)
    (source / ".hidden").write_text("x")
    (source / "empty").write_text("")
    (source / "new\nline").write_text("x")
    (source / "link").symlink_to(source / "part 0" / "0.md")
    assert [d.key for d in find_documents(source, 10)] == ["part 0/0.md", "part 1/1.md"]
    assert len(find_documents(source, 1)) == 1


def test_agreement_is_computed_from_what_the_stores_hold() -> None:
    same = {"a": "1", "b": "2"}
    assert torn({"x": same, "y": dict(same)}) == []
    assert torn({"x": same, "y": {"a": "1"}}) == ["b"]
    assert torn({"x": same, "y": {"a": "1", "b": "3"}}) == ["b"]
    assert digest_of(same) == digest_of({"b": "2", "a": "1"}) != digest_of({"a": "1"})
