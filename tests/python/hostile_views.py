"""Objects with a view, made of texts that want to break out of it. Plain data, no tests."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from engine_rows import row, store_row
from unanimity import (
    ClusterStatus,
    CoordinationRecord,
    CoordinationResult,
    History,
    Latency,
    LockInfo,
    LockTable,
    LockType,
    RecoveryReport,
    Saga,
    TransactionState,
    WaitGraph,
)
from unanimity._config import CoordinationConfig
from unanimity._watch import Overview

# Each sets a mark on the page if it is ever run.
RUN = "document.documentElement.dataset.ran=1"
TEXTS = {
    "script": f"<script>{RUN}</script>",
    "quote": f'" onload="{RUN}" onmouseover="{RUN}" x="',
    "image": f"<img src=x onerror='{RUN}'>",
    "ends": f"]]></style></svg></table><svg onload={RUN}>&lt;b&gt;-->",
    "address": f"javascript:{RUN}//&#x6a;avascript:",
    "controls": "a\x00b\x07c\x1b[31md\r\ne\x85f\u2028g\u2029h\ufffei\udc80j",
    "turned": "\u202eevil\u202c \u2066isolated\u2069 \u200fmark\u200e \ufeffbom",
    "wide": "漢字かな交じり文" * 30 + "\N{GRINNING FACE}" * 9 + "e\N{COMBINING ACUTE ACCENT}" * 99,
    "long": "long-" + "x" * 10_000 + "-end",
}


def record(text: str, kind: str = "two_phase_commit") -> CoordinationRecord:
    """A record whose every text is that one."""
    step: dict[str, Any] = {
        "operation_id": text, "state": "failed", "attempts": 3, "compensation_attempts": 0,
        "result": {text: text}, "note": text, "started_at": 1_700_000_000_000_500,
        "completed_at": 1_700_000_000_002_500, "compensation_started_at": None,
        "compensated_at": None,
    }  # fmt: skip
    operation = {"store": text, "type": text, "key": text, "operation_id": text, "depends_on": []}
    return CoordinationRecord.from_engine(
        row(
            coordination_id=text,
            coordination_type=kind,
            participating_stores=[text],
            operations=[operation],
            metadata={text: text},
            owner=text,
            reason={"code": text, "message": text},
            error_message=text,
            stores=[store_row(text, vote=text, note=text, attempts=3)],
            steps=[step],
        )
    )


def shown_of(text: str) -> dict[str, Any]:
    """Everything that has a view, made of that text."""
    now = datetime(2030, 1, 1, tzinfo=timezone.utc)
    saga = Saga(text)
    first = saga.step(text, text, id=text)
    saga.pivot(text, text, id="2" + text, after=[first])
    infos = [
        LockInfo(text, LockType.EXCLUSIVE, text, "held", text, 0, now, None, 7),
        LockInfo(text, LockType.SHARED, "2" + text, "waiting", None, 1, now, now, None),
    ]
    locks = LockTable(infos)
    member = {"id": text, "address": text, "role": text, "lag": 3}
    cluster = {
        "node_id": text, "state": text, "leader_id": text, "term": 1, "commit_index": 1,
        "last_applied": 1, "trouble": text, "members": [member],
    }  # fmt: skip
    history = History([record(text)])
    status = {"location": text, "states": {text: 1}}
    return {
        "result": CoordinationResult(
            text, False, TransactionState.FAILED, text, 1, [text], 0, 1, text
        ),
        "record": record(text),
        "saga record": record(text, "saga_orchestration"),
        "timeline": record(text).timeline(),
        "history": history,
        "saga": saga,
        "locks": locks,
        "waits": WaitGraph({text: ["2" + text], "2" + text: [text]}, locks.wants()),
        "report": RecoveryReport(committed=[text], in_doubt=[text]),
        "latency": Latency(history),
        "cluster": ClusterStatus(cluster),
        "overview": Overview(status, [text], history),
        "config": CoordinationConfig.from_mapping(
            {"cluster": "shop", "secret": "a secret of many bytes"}, environment={}
        ),
    }
