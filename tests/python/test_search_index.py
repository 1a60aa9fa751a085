"""The demo's Python store: durable line by line, idempotent, and honest after a kill."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from unanimity import PrepareRequest, StoreError
from unanimity.cli.search_index import SearchIndex


def prepare(index: SearchIndex, transaction_id: str, key: str, **changes: Any) -> str:
    operation = {"type": "index", "key": key, "entry": {"words": [key], "digest": "d"}, **changes}
    answer = index.prepare_transaction(PrepareRequest(transaction_id, [operation], 5))
    return answer.vote


def test_staged_entries_show_only_after_commit(tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "log")
    assert prepare(index, "t1", "a") == "COMMIT"
    assert (index.entries(), index.list_prepared_transactions()) == ({}, ["t1"])
    assert index.commit_transaction("t1").status == "SUCCESS"
    assert (index.search("a"), index.list_prepared_transactions()) == (["a"], [])


def test_commit_and_abort_may_be_repeated(tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "log")
    prepare(index, "t1", "a")
    assert [index.commit_transaction("t1").status for _ in range(2)] == ["SUCCESS"] * 2
    prepare(index, "t2", "b")
    assert [index.abort_transaction("t2").status for _ in range(2)] == ["SUCCESS"] * 2
    assert index.abort_transaction("never").status == "SUCCESS"
    assert index.search("b") == []


def test_commit_of_what_was_never_prepared_is_a_final_no(tmp_path: Path) -> None:
    answer = SearchIndex(tmp_path / "log").commit_transaction("never")
    assert (answer.status, answer.error_message) == ("FAILED", "never was never prepared here")


def test_two_transactions_cannot_prepare_one_key(tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "log")
    assert prepare(index, "t1", "a") == "COMMIT"
    assert prepare(index, "t2", "a") == "ABORT"
    index.abort_transaction("t1")
    assert prepare(index, "t3", "a") == "COMMIT"


@pytest.mark.parametrize("change", [{"type": "drop"}, {"key": 7}, {"entry": "text"}])
def test_a_bad_operation_is_voted_down_with_the_reason(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    assert prepare(SearchIndex(tmp_path / "log"), "t1", **{"key": "a", **change}) == "ABORT"


def test_every_byte_at_which_the_file_can_be_torn_reads_back_to_whole_lines(
    tmp_path: Path,
) -> None:
    whole = tmp_path / "log"
    index = SearchIndex(whole)
    prepare(index, "t1", "a")
    index.commit_transaction("t1")
    prepare(index, "t2", "b")
    index.close()
    content = whole.read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == 10]
    for cut in range(len(content) + 1):
        torn = tmp_path / "torn"
        torn.write_bytes(content[:cut])
        again = SearchIndex(torn)
        lines = sum(1 for end in ends if end <= cut)
        shown, staged = [([], []), ([], ["t1"]), (["a"], []), (["a"], ["t2"])][lines]
        assert (list(again.entries()), again.list_prepared_transactions()) == (shown, staged)
        # The torn tail is gone, so what is written next stands on a line of its own.
        assert prepare(again, "t9", "z") == "COMMIT"
        again.close()
        last = SearchIndex(torn)
        assert "t9" in last.list_prepared_transactions()
        last.close()


def test_damage_before_the_last_line_is_an_error_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"stage": "t1", "operations": []}\nnonsense\n{"drop": "t1"}\n')
    with pytest.raises(StoreError, match="damaged at line 2"):
        SearchIndex(tmp_path / "log")


def test_after_a_failed_write_nothing_is_promised_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = SearchIndex(tmp_path / "log")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            prepare(index, "t1", "a")
    with pytest.raises(StoreError, match="could not be written before"):
        prepare(index, "t2", "b")
