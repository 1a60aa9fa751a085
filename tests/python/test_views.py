"""Every view in every form: text that is harmless, JSON that is whole, pictures that are right."""

from __future__ import annotations

import importlib
import json
import pickle
import re
import sys
import xml.etree.ElementTree as ET
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from engine_rows import row, store_row
from hostile_views import TEXTS, record, shown_of
from unanimity import (
    ClusterStatus,
    CoordinationRecord,
    History,
    InvalidRequest,
    Latency,
    LockInfo,
    LockTable,
    LockType,
    RecoveryReport,
    Timeline,
    WaitGraph,
)
from unanimity._views.words import duration, plain, shortened

SVG = "{http://www.w3.org/2000/svg}"


def told(**changes: Any) -> CoordinationRecord:
    return CoordinationRecord.from_engine(row(**changes))


# ---- every form of everything -----------------------------------------------------------------


@pytest.mark.parametrize("kind", TEXTS)
def test_text_has_nothing_that_moves_or_turns_a_terminal(kind: str) -> None:
    for name, view in shown_of(TEXTS[kind]).items():
        text = view.to_text()
        bad = {c for c in text if c != "\n" and plain(c) != c}
        assert bad == set(), name
        assert all(len(line) < 60_000 for line in text.splitlines()), name


@pytest.mark.parametrize("kind", TEXTS)
def test_json_is_one_document_that_tells_the_whole(kind: str) -> None:
    for name, view in shown_of(TEXTS[kind]).items():
        document = view.to_json()
        assert document.encode("utf-8"), name
        assert json.loads(document) == view.to_dict(), name
        if kind == "long" and name not in ("config", "latency"):
            assert TEXTS["long"] in document, name


def test_a_short_name_for_the_prompt() -> None:
    """What stands for an object in a list or a debugger is one short line."""
    for name, view in shown_of("x").items():
        if name not in ("history", "config", "cluster"):
            assert "\n" not in repr(view) and len(repr(view)) < 300, name
    assert repr(told()) == "CoordinationRecord('t1', two_phase_commit, committed, 2 stores, 5 ms)"
    assert repr(told().timeline()) == "Timeline('t1', 10 entries)"
    assert repr(RecoveryReport(["a"])).startswith("RecoveryReport(1 committed, 0 aborted")


def test_a_result_tells_its_outcome_too() -> None:
    result = shown_of("x")["result"].to_dict()
    assert (result["final_state"], result["outcome"], result["success"]) == (
        "failed",
        "heuristic",
        False,
    )


def test_what_json_has_no_word_for_is_still_told() -> None:
    moment = datetime(2030, 1, 1, tzinfo=timezone.utc)
    strange = {"b": b"\x00\xff", "t": (1, {2}), "n": float("nan"), "at": moment, 3: object}
    plainly = told(metadata=strange).to_dict()["metadata"]
    assert plainly["b"] == {"$bytes": "AP8="}
    assert plainly["t"] == [1, [2]]
    assert plainly["n"] is None
    assert plainly["at"] == "2030-01-01T00:00:00+00:00"
    assert plainly["3"] == "<class 'object'>"


def test_a_configuration_hides_its_secrets_in_every_form() -> None:
    config = shown_of("x")["config"]
    for form in (config.to_text(), config.to_html(), config.to_json(), repr(config)):
        assert "a secret of many bytes" not in form
        assert "***" in form or "•" in form


def test_a_page_holds_a_part_of_what_is_long_and_says_so() -> None:
    html = History([told()] * 700).to_html()
    assert html.count("<tr>") == 501 and "and 200 rows more" in html
    waits = WaitGraph({f"w{number}": [f"w{number + 1}"] for number in range(200)})
    assert "a picture of 201 boxes is left out; to_svg() draws it" in waits.to_html()
    assert "data:image" not in waits.to_html()
    assert waits.to_svg().count('class="node"') == 201


def test_an_old_programs_list_or_dict_is_still_one() -> None:
    infos = list(shown_of("x")["locks"])
    assert LockTable(infos) == infos
    assert WaitGraph({"a": ["b"]}) == {"a": ["b"]}
    status = ClusterStatus(node_id="a", leader_id=None, trouble=None)
    assert status == {"node_id": "a", "leader_id": None, "trouble": None}
    assert json.loads(json.dumps(status)) == status
    assert not status.is_well


def test_views_survive_pickling() -> None:
    shown = shown_of("x")
    for name in ("record", "timeline", "history", "locks", "waits", "report", "result", "cluster"):
        again = pickle.loads(pickle.dumps(shown[name]))
        assert again == shown[name] and type(again) is type(shown[name]), name
        assert again.to_text() == shown[name].to_text(), name


# ---- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("micros", "words"),
    [
        (0, "0 µs"),
        (850, "850 µs"),
        (999, "999 µs"),
        (1_000, "1 ms"),
        (4_210, "4.21 ms"),
        (999_400, "999 ms"),
        (999_600, "1 s"),
        (1_350_000, "1.35 s"),
        (59_990_000, "1 min 0 s"),
        (125_000_000, "2 min 5 s"),
        (12_000_000_000, "3 h 20 min"),
        (-850, "-850 µs"),
    ],
)
def test_a_length_of_time_in_words(micros: int, words: str) -> None:
    assert duration(timedelta(microseconds=micros)) == words


def test_a_long_text_keeps_both_ends() -> None:
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 7) == "abcd…jk"
    assert shortened("abc", 1) == "…"
    assert shortened("漢字漢字漢字", 7) == "漢字…字"
    assert shortened("e\N{COMBINING ACUTE ACCENT}" * 3, 3) == "e\N{COMBINING ACUTE ACCENT}" * 3


# ---- the timeline -----------------------------------------------------------------------------


def test_a_timeline_is_a_list_with_a_lane_for_each_store() -> None:
    timeline = told().timeline()
    assert isinstance(timeline, list) and isinstance(timeline, Timeline)
    lanes = {lane.name: [span.phase for span in lane.spans] for lane in timeline.lanes.lanes}
    assert lanes == {
        "coordinator": ["begin", "decide"],
        "left": ["prepare", "wait", "commit"],
        "right": ["prepare", "wait", "commit"],
    }
    words = {lane.name: lane.words for lane in timeline.lanes.lanes}
    assert words["coordinator"] == "decision: commit"
    assert words["left"] == "voted COMMIT 1.4 ms; commit 1 ms"


def test_tries_silence_and_trouble_are_told() -> None:
    late = store_row("left", attempts=4, acknowledged_at=None, note="not now")
    silent = store_row("right", vote=None, voted_at=None)
    open_record = told(stores=[late, silent], completed_at=None, outcome=None, state="committing")
    words = {lane.name: lane.words for lane in open_record.timeline().lanes.lanes}
    assert words["left"] == "voted COMMIT 1.4 ms; commit, 4 tries, not acknowledged"
    assert words["right"] == "no vote; commit 1 ms"
    ends = [span.end for lane in open_record.timeline().lanes.lanes[1:2] for span in lane.spans]
    assert ends[-1] is None
    told_at_end = told(stores=[store_row("left", attempts=2, note="not now")]).timeline()
    assert "acknowledged commit (2 tries: not now)" in [entry.what for entry in told_at_end]
    assert "voted COMMIT" in [entry.what for entry in told_at_end]


def test_a_begin_that_was_stamped_late_stands_inside_of_the_picture() -> None:
    early = store_row("left", prepare_asked_at=1_699_999_999_999_900)
    lanes = told(stores=[early]).timeline().lanes
    assert lanes.begin == min(span.begin for lane in lanes.lanes for span in lane.spans)
    for lane in lanes.lanes:
        for span in lane.spans:
            assert span.end is None or span.begin <= span.end <= lanes.end


@pytest.mark.parametrize("kind", ["two_phase_commit", "saga_orchestration"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_picture_is_well_formed_and_nothing_lies_outside_of_it(text: str, kind: str) -> None:
    svg = record(text, kind).timeline().to_svg()
    root = ET.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert root.attrib["viewBox"] == f"0 0 {width:.0f} {height:.0f}"
    bars = [one for one in root.iter(f"{SVG}rect") if "class" in one.attrib and "x" in one.attrib]
    assert len(bars) >= 4
    for bar in bars:
        x, y = float(bar.attrib["x"]), float(bar.attrib["y"])
        assert x >= 0 and x + float(bar.attrib["width"]) <= width
        assert y >= 0 and y + float(bar.attrib["height"]) <= height
    for words in root.iter(f"{SVG}text"):
        assert 0 <= float(words.attrib["x"]) < width and 0 < float(words.attrib["y"]) < height
    kinds = {one.tag.removeprefix(SVG) for one in root.iter()}
    assert kinds <= {"svg", "style", "rect", "text", "line", "g", "title"}


def test_bars_of_one_lane_never_cover_each_other() -> None:
    at = 1_700_000_000_000_000
    steps = [
        {
            "operation_id": f"s{n}", "state": "completed", "attempts": 1,
            "compensation_attempts": 0, "result": None, "note": None, "started_at": at + n * 500,
            "completed_at": at + n * 500 + 1_200, "compensation_started_at": None,
            "compensated_at": None,
        }
        for n in range(5)
    ]  # fmt: skip
    operations = [{"store": "left", "type": "x", "operation_id": f"s{n}"} for n in range(5)]
    svg = (
        told(coordination_type="saga_orchestration", stores=[], steps=steps, operations=operations)
        .timeline()
        .to_svg()
    )
    bars = re.findall(r'<rect class="execute" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', svg)
    boxes = [(float(y), float(x), float(x) + float(w)) for x, y, w in bars if float(w) != 12]
    assert len(boxes) == 5
    for row_y, begin, end in boxes:
        others = [box for box in boxes if box != (row_y, begin, end) and box[0] == row_y]
        assert all(other[2] <= begin + 0.2 or other[1] >= end - 0.2 for other in others)


def test_a_record_of_nothing_yet_can_be_drawn() -> None:
    bare = told(
        stores=[], steps=[], operations=[], completed_at=None, outcome=None, decision=None,
        state="initiated", updated_at=1_700_000_000_000_000,
    )  # fmt: skip
    assert ET.fromstring(bare.timeline().to_svg()) is not None
    assert "no decision yet" in bare.to_text()


# ---- latency ----------------------------------------------------------------------------------


def test_percentiles_are_lengths_that_were_taken_by_the_nearest_rank() -> None:
    began = 1_700_000_000_000_000
    records = [told(completed_at=began + 1_000 * length) for length in range(1, 101)]
    records.append(told(completed_at=began + 7_000, state="aborted"))
    records.append(told(completed_at=None))
    latency = Latency(records)
    assert latency.coordinations == 101
    committed, aborted = latency
    ms = timedelta(milliseconds=1)
    assert (committed.count, committed.state.value) == (100, "committed")
    assert [committed.p50 / ms, committed.p90 / ms, committed.p99 / ms] == [50, 90, 99]
    assert committed.max / ms == 100
    assert [aborted.p50 / ms, aborted.p99 / ms, aborted.max / ms] == [7, 7, 7]
    assert "100 ms" in str(latency)


def test_no_latency_of_nothing() -> None:
    assert str(Latency([])) == "no coordination has ended yet"
    assert Latency([]).to_dict() == {"coordinations": 0, "since": None, "rows": []}


# ---- frames -----------------------------------------------------------------------------------


def table_of(rows: str, history: History) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    made = history.to_arrow(rows)
    assert isinstance(made, pyarrow.Table)
    return made


@pytest.mark.parametrize("rows", ["coordinations", "stores", "operations", "steps"])
def test_a_frame_has_the_same_columns_full_or_empty(rows: str) -> None:
    pandas = pytest.importorskip("pandas")
    full, empty = History([record("x", "saga_orchestration")]), History([])
    assert table_of(rows, full).schema == table_of(rows, empty).schema
    made, none = full.to_pandas(rows), empty.to_pandas(rows)
    assert isinstance(made, pandas.DataFrame)
    assert list(made.columns) == list(none.columns) == table_of(rows, full).column_names
    assert dict(made.dtypes) == dict(none.dtypes)
    assert made.columns[0] == "coordination_id"


def test_values_come_through_with_their_microseconds() -> None:
    history = History([told(created_at=1_700_000_000_000_001, completed_at=1_700_000_000_005_002)])
    (line,) = table_of("coordinations", history).to_pylist()
    assert line["created_at"] == history[0].created_at
    assert line["duration"] == timedelta(microseconds=5_001)
    assert line["participating_stores"] == ["left", "right"]
    frame = history.to_pandas()
    assert frame["created_at"][0].to_pydatetime() == history[0].created_at
    assert frame["duration"][0].to_pytimedelta() == timedelta(microseconds=5_001)


def test_whatever_takes_arrow_takes_a_history_and_a_lock_table() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    assert pyarrow.table(History([told()])).num_rows == 1
    at = datetime(2030, 1, 1, tzinfo=timezone.utc)
    info = LockInfo("r", LockType.SHARED, "ann", "waiting", None, 0, at, None, None)
    reader = pyarrow.RecordBatchReader.from_stream(LockTable([info]))
    (line,) = reader.read_all().to_pylist()
    assert (line["lock_type"], line["since"], line["fencing_token"]) == ("shared", at, None)
    assert LockTable([info]).to_pandas()["requester_id"][0] == "ann"
    assert pyarrow.table(Latency([told()])).column("p50_ms").to_pylist() == [5.0]


@pytest.mark.parametrize(
    ("library", "ask", "extra"),
    [("pandas", "to_pandas", "notebook"), ("pyarrow", "to_arrow", "arrow"),
     ("pyarrow", "__arrow_c_stream__", "arrow")],
)  # fmt: skip
def test_without_the_library_the_error_says_how_to_get_it(
    library: str, ask: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for view in (History([]), LockTable(), Latency([])):
        with pytest.raises(ImportError, match=rf"{ask}\(\) needs {library}.*\[{extra}\]"):
            getattr(view, ask)()


def test_rows_that_there_are_not_are_refused() -> None:
    importlib.invalidate_caches()
    with pytest.raises(InvalidRequest, match="rows is 'locks'; use one of coordinations, stores"):
        History([]).to_pandas("locks")
