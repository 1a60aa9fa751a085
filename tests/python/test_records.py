"""Records, timelines, histories and reports, made of the engine's dicts."""

from __future__ import annotations

import importlib
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from engine_rows import row, store_row
from unanimity import (
    CoordinationRecord,
    CoordinationType,
    History,
    InvalidRequest,
    Outcome,
    RecoveryReport,
    TransactionState,
)
from unanimity._records import history_filter


def test_a_record_has_aware_utc_times_to_the_microsecond() -> None:
    record = CoordinationRecord.from_engine(row(created_at=1_700_000_000_123_457))
    assert record.created_at == datetime(2023, 11, 14, 22, 13, 20, 123457, timezone.utc)
    assert record.created_at.utcoffset() == timedelta(0)
    assert record.duration == timedelta(microseconds=5_000 - 123_457)


def test_a_record_tells_state_outcome_and_reason() -> None:
    record = CoordinationRecord.from_engine(
        row(
            state="aborted",
            decision="ABORT",
            reason={"code": "vote.abort", "message": "left voted ABORT"},
            outcome={
                "kind": "aborted",
                "success": False,
                "state": "aborted",
                "code": "vote.abort",
                "message": "left voted ABORT",
                "operations_completed": 0,
                "operations_failed": 2,
            },
        )
    )
    assert record.coordination_type is CoordinationType.TWO_PHASE_COMMIT
    assert (record.state, record.outcome) == (TransactionState.ABORTED, Outcome.ABORTED)
    assert (record.reason_code, record.reason) == ("vote.abort", "left voted ABORT")
    assert record.operations_failed == 2


def test_an_open_coordination_has_no_end() -> None:
    record = CoordinationRecord.from_engine(row(completed_at=None, outcome=None, decision=None))
    assert (record.completed_at, record.duration, record.outcome) == (None, None, None)
    assert [entry.what for entry in record.timeline() if entry.store is None] == ["began"]


def test_a_timeline_is_in_order_of_time_and_names_the_stores() -> None:
    record = CoordinationRecord.from_engine(row())
    told = [(entry.store, entry.what) for entry in record.timeline()]
    assert told == [
        (None, "began"),
        ("left", "asked to prepare"),
        ("right", "asked to prepare"),
        ("right", "voted COMMIT"),
        ("left", "voted COMMIT"),
        ("left", "told to commit"),
        ("right", "told to commit"),
        ("left", "acknowledged commit"),
        ("right", "acknowledged commit"),
        (None, "ended: committed"),
    ]


def test_a_store_that_was_never_asked_is_not_in_the_timeline() -> None:
    silent = store_row("left", vote=None, prepare_asked_at=None, voted_at=None)
    silent.update(delivery_asked_at=None, acknowledged_at=None, attempts=0)
    record = CoordinationRecord.from_engine(row(stores=[silent]))
    assert all(entry.store is None for entry in record.timeline())


def test_a_history_acts_as_a_list_that_cannot_be_changed() -> None:
    records = [CoordinationRecord.from_engine(row(coordination_id=f"t{n}")) for n in range(3)]
    history = History(records)
    assert len(history) == 3
    assert history[0] is records[0]
    assert list(history[1:]) == records[1:]
    assert isinstance(history[1:], History)
    assert history == records
    assert records[2] in history
    assert not hasattr(history, "append")


def test_to_pandas_without_pandas_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'unanimity\[notebook\]'"):
        History([]).to_pandas()


def test_to_pandas_makes_a_row_for_each_coordination() -> None:
    try:
        importlib.import_module("pandas")
    except ImportError:
        pytest.skip("pandas is not installed")
    frame: Any = History([CoordinationRecord.from_engine(row())]).to_pandas()
    assert frame.iloc[0]["state"] == "committed"
    assert frame.iloc[0]["operations"] == 2


def test_a_report_counts_what_it_names() -> None:
    report = RecoveryReport(committed=["a", "b"], in_doubt=["c"])
    assert str(report) == "2 committed, 0 aborted, 0 resumed, 0 compensated, 1 in_doubt"


def test_a_filter_takes_members_values_and_several_of_them() -> None:
    one = history_filter(TransactionState.PREPARED, None, None, None, 5)
    assert one["states"] == ["prepared"]
    both = history_filter(["failed", TransactionState.ABORTED], "two_phase_commit", "a", None, 5)
    assert both["states"] == ["failed", "aborted"]
    assert both["coordination_type"] == "two_phase_commit"
    since = datetime(1970, 1, 1, 0, 0, 1, 5, timezone.utc)
    assert history_filter(None, None, None, since, 5)["since"] == 1_000_005


@pytest.mark.parametrize(
    ("state", "kind", "since", "limit", "told"),
    [
        ("done", None, None, 1, "state is 'done'; use one of initiated"),
        (None, "3pc", None, 1, "coordination_type is '3pc'"),
        (None, None, datetime(2030, 1, 1), 1, "no time zone"),
        (None, None, None, 0, "limit is 0"),
        (None, None, None, True, "limit is True"),
    ],
)
def test_a_bad_filter_says_what_to_give(
    state: Any, kind: Any, since: Any, limit: Any, told: str
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        history_filter(state, kind, None, since, limit)
