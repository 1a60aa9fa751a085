"""Spans of coordinations, as the SDK of OpenTelemetry exports them, and how a trace goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from ledger import Ledger, request
from unanimity import (
    CoordinationRequest,
    CoordinationService,
    CoordinationType,
    JournalEventBus,
    OperationRequest,
    OperationResult,
    PrepareResult,
    TransactionState,
)
from unanimity.stores import MemoryStore, SqliteStore

Make = Callable[..., CoordinationService]
ALWAYS = {"monitoring": {"distributed_tracing_enabled": True, "trace_sampling_rate": 1.0}}
NEVER = {"monitoring": {"distributed_tracing_enabled": True, "trace_sampling_rate": 0.0}}


class Spans:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def one(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.all() if span.name == name]
        return span

    def tree(self, root: ReadableSpan) -> list[str]:
        """The names below a span, in the order of their begins, indented by depth."""
        below = [s for s in self.all() if s.parent and s.parent.span_id == root.context.span_id]
        below.sort(key=lambda span: (span.start_time or 0, span.name))
        names: list[str] = []
        for span in below:
            names += [span.name, *("  " + name for name in self.tree(span))]
        return names


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    spans = Spans()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    yield spans
    spans.provider.shutdown()


def traceparent(span: ReadableSpan) -> str:
    context = span.context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


class Watcher(Ledger):
    """A store that makes a span of its own in each call."""

    async def prepare_transaction(self, request: Any) -> PrepareResult:
        with trace.get_tracer("store").start_as_current_span("in prepare"):
            await asyncio.sleep(0)
        return await super().prepare_transaction(request)

    async def commit_transaction(self, transaction_id: str) -> Any:
        with trace.get_tracer("store").start_as_current_span("in commit"):
            return await super().commit_transaction(transaction_id)


def test_a_commit_is_a_tree_of_spans_below_its_callers(
    make_service: Make, spans: Spans, tmp_path: Path
) -> None:
    left = Watcher("left")
    right = SqliteStore(str(tmp_path / "right.db"))
    operations = [
        {"store": "left", "type": "put", "key": "k", "value": 1},
        {"store": "right", "type": "execute", "statement": "CREATE TABLE t (x)"},
    ]

    async def scenario() -> None:
        async with make_service({"left": left, "right": right}, config=ALWAYS) as service:
            with trace.get_tracer("app").start_as_current_span("caller"):
                asked = request("t1", operations=operations, consistency_level="strong")
                result = await service.coordinate_transaction(asked)
            assert result.success

    asyncio.run(scenario())
    assert spans.tree(spans.one("caller"))[0] == "coordinate two_phase_commit"
    whole = spans.one("coordinate two_phase_commit")
    names = spans.tree(whole)
    # The native store makes no spans of its own, and its call is told when it has ended.
    assert [name for name in names if not name.startswith(" ")] == [
        "acquire locks",
        "record begin",
        "prepare phase",
        "record decision",
        "commit phase",
    ]
    assert sorted(spans.tree(spans.one("prepare phase"))) == [
        "  in prepare",
        "prepare left",
        "prepare right",
    ]
    assert spans.tree(spans.one("prepare left")) == ["in prepare"]
    assert spans.tree(spans.one("commit left")) == ["in commit"]
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.all())
    assert len({span.context.trace_id for span in spans.all()}) == 1
    assert attributes(whole) == {
        "unanimity.coordination.id": "t1",
        "unanimity.coordination.type": "two_phase_commit",
        "unanimity.consistency_level": "strong",
        "unanimity.outcome": "committed",
        "unanimity.state": "committed",
    }
    asked = spans.one("prepare right")
    assert (asked.kind, attributes(asked)) == (
        SpanKind.CLIENT,
        {
            "unanimity.store.name": "right",
            "db.system.name": "sqlite",
            "unanimity.attempt": 1,
            "unanimity.ending": "done",
        },
    )
    assert left.requests[0].metadata == {"traceparent": traceparent(spans.one("prepare left"))}


def test_an_abort_says_who_was_against_it(make_service: Make, spans: Spans) -> None:
    left, right = Ledger("left"), Ledger("right")
    right.answer = PrepareResult("right", "ABORT", "no money")

    async def scenario() -> None:
        async with make_service({"left": left, "right": right}, config=ALWAYS) as service:
            assert not (await service.coordinate_transaction(request("t1"))).success
            right.answer = LookupError("the disk is gone")
            assert not (await service.coordinate_transaction(request("t2"))).success

    asyncio.run(scenario())
    first, second = (s for s in spans.all() if s.name == "coordinate two_phase_commit")
    assert first.status.status_code is StatusCode.ERROR
    assert "no money" in (first.status.description or "")
    assert attributes(first)["error.type"] == "transaction.aborted.vote"
    assert attributes(first)["unanimity.outcome"] == "aborted"
    assert first.parent is None and second.parent is None
    refused, raised = (s for s in spans.all() if s.name == "prepare right")
    assert attributes(refused)["error.type"] == "store.refused"
    assert refused.status.description == "no money"
    assert attributes(raised)["error.type"] == "store.unknown"
    assert "LookupError: the disk is gone" in (raised.status.description or "")
    assert spans.tree(first)[-3:] == ["abort phase", "  abort left", "  abort right"]
    fine = next(s for s in spans.all() if s.name == "prepare left")
    assert fine.status.status_code is StatusCode.UNSET


class Steps:
    """Does operations; those of the type "fail" fail for good."""

    def __init__(self) -> None:
        self.requests: list[OperationRequest] = []

    async def execute_operation(self, asked: OperationRequest) -> OperationResult:
        self.requests.append(asked)
        if asked.operation["type"] == "fail":
            return OperationResult("steps", "FAILED", error_message="sold out", retryable=False)
        return OperationResult("steps", "SUCCESS")

    async def compensate_operation(self, asked: OperationRequest) -> OperationResult:
        self.requests.append(asked)
        return OperationResult("steps", "SUCCESS")


def test_a_saga_that_goes_back_has_a_phase_for_each_direction(
    make_service: Make, spans: Spans
) -> None:
    steps = Steps()
    saga = request(
        "s1",
        "steps",
        coordination_type=CoordinationType.SAGA_ORCHESTRATION,
        consistency_level="session",
        operations=[
            {
                "store": "steps",
                "type": "book",
                "operation_id": "book",
                "compensation": {"type": "cancel"},
            },
            {
                "store": "steps",
                "type": "fail",
                "operation_id": "pay",
                "depends_on": ["book"],
                "compensation": None,
            },
        ],
    )

    async def scenario() -> None:
        async with make_service({"steps": steps}, config=ALWAYS) as service:
            result = await service.coordinate_transaction(saga)
            assert result.final_state is TransactionState.ABORTED, result.error_message

    asyncio.run(scenario())
    whole = spans.one("coordinate saga_orchestration")
    phases = [name for name in spans.tree(whole) if "record" not in name]
    assert phases == [
        "execute phase",
        "  execute steps",
        "  execute steps",
        "compensate phase",
        "  compensate steps",
    ]
    calls = sorted(
        (s for s in spans.all() if s.kind is SpanKind.CLIENT), key=lambda s: s.start_time or 0
    )
    told = [attributes(call)["unanimity.operation.id"] for call in calls]
    assert told == ["book", "pay", "book"]
    assert [call.status.description for call in calls] == [None, "sold out", None]
    # Each request carries its own call's span.
    carried = [asked.metadata["traceparent"] for asked in steps.requests]
    assert carried == [traceparent(call) for call in calls]


def test_what_is_not_sampled_has_no_spans_and_a_trace_decides_for_itself(
    make_service: Make, spans: Spans
) -> None:
    left = Ledger("left")
    unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

    async def scenario() -> None:
        async with make_service({"left": left}, config=NEVER) as service:
            await service.coordinate_transaction(request("alone", "left"))
            assert spans.all() == () and left.requests[-1].metadata == {}
            dark = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(0))
            context = trace.set_span_in_context(trace.NonRecordingSpan(dark))
            with trace.get_tracer("app").start_as_current_span("unsampled", context):
                await service.coordinate_transaction(request("inside", "left"))
            given = {"traceparent": unsampled}
            await service.coordinate_transaction(request("named", "left", metadata=given))
            assert spans.all() == ()
            with trace.get_tracer("app").start_as_current_span("sampled"):
                await service.coordinate_transaction(request("sampled", "left"))
            named = {"traceparent": unsampled[:-1] + "1"}
            await service.coordinate_transaction(request("remote", "left", metadata=named))
            record = await service.describe("remote")
            assert record is not None and record.metadata == named

    asyncio.run(scenario())
    inside, remote = (s for s in spans.all() if s.name == "coordinate two_phase_commit")
    assert inside.parent is not None
    assert inside.parent.span_id == spans.one("sampled").context.span_id
    assert remote.parent is not None
    assert remote.parent.span_id == 0xB7AD6B7169203331


def test_the_share_of_traces_is_kept_by_their_ids(make_service: Make, spans: Spans) -> None:
    half = {"monitoring": {"distributed_tracing_enabled": True, "trace_sampling_rate": 0.5}}

    async def scenario(journal: str) -> set[Any]:
        spans.exporter.clear()
        service = make_service({"left": MemoryStore()}, config=half, journal=journal)
        async with service:
            for number in range(200):
                asked = request(f"order-{number}", "left", consistency_level="session")
                assert (await service.coordinate_transaction(asked)).success
            # Nothing is kept of what has ended.
            assert service._tracing is not None and service._tracing._traces == {}
        whole = [s for s in spans.all() if s.name == "coordinate two_phase_commit"]
        return {attributes(span)["unanimity.coordination.id"] for span in whole}

    first = asyncio.run(scenario("memory:"))
    assert 60 < len(first) < 140
    # Another process would keep the same ones.
    assert asyncio.run(scenario("memory:")) == first


def test_what_was_left_open_is_a_new_trace_linked_to_the_old_one(
    make_service: Make, spans: Spans
) -> None:
    left, right = Ledger("left"), Ledger("right")
    right.commit_answer = LookupError("away")
    quick = {**ALWAYS, "timeouts": {"commit_phase_timeout_seconds": 1}}

    async def leave() -> None:
        service = make_service({"left": left, "right": right}, config=quick)
        await service.start()
        asked = request("t1", consistency_level="eventual")
        result = await service.coordinate_transaction(asked)
        assert result.success and result.final_state is TransactionState.COMMITTING
        await service.close(timeout=0)

    async def go_on() -> None:
        right.commit_answer = None
        async with make_service({"left": left, "right": right}, config=quick) as service:
            assert (await service.wait_for("t1", 30)).final_state is TransactionState.COMMITTED

    asyncio.run(leave())
    before = spans.one("coordinate two_phase_commit")
    spans.exporter.clear()
    asyncio.run(go_on())
    resumed = spans.one("resume two_phase_commit")
    assert resumed.parent is None
    assert resumed.context.trace_id != before.context.trace_id
    (link,) = resumed.links
    assert (link.context.trace_id, link.context.span_id) == (
        before.context.trace_id,
        before.context.span_id,
    )
    assert attributes(resumed)["unanimity.resumed"] is True
    assert "  commit right" in spans.tree(resumed)
    assert resumed.status.status_code is StatusCode.UNSET


def test_a_request_that_is_repeated_in_another_trace_is_the_same(
    make_service: Make, spans: Spans
) -> None:
    async def scenario() -> None:
        async with make_service({"left": Ledger("left")}, config=ALWAYS) as service:
            for _ in range(2):
                with trace.get_tracer("app").start_as_current_span("caller"):
                    result = await service.coordinate_transaction(request("t1", "left"))
                assert result.success, result
            other = await service.coordinate_transaction(
                request("t1", "left", metadata={"who": "me"})
            )
            assert other.code == "request.conflict"
            record = await service.describe("t1")
            assert record is not None
            first, *_ = (s for s in spans.all() if s.name == "coordinate two_phase_commit")
            assert record.metadata == {"traceparent": traceparent(first)}

    asyncio.run(scenario())
    outcomes = [
        attributes(span)["unanimity.outcome"]
        for span in spans.all()
        if span.name == "coordinate two_phase_commit"
    ]
    assert outcomes == ["committed", "committed", "refused"]


def test_the_stops_of_a_choreographed_saga_are_in_its_callers_trace(
    spans: Spans, tmp_path: Path
) -> None:
    operations = [
        {"store": "a", "type": "do", "operation_id": "first", "emits": "A", "compensation": None},
        {"store": "b", "type": "do", "operation_id": "second", "on": "A", "compensation": None},
    ]
    kind = CoordinationType.SAGA_CHOREOGRAPHY
    saga = CoordinationRequest("c1", kind, ["a", "b"], operations, 30)
    stops = {"a": Steps(), "b": Steps()}

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(JournalEventBus(tmp_path / "shared.db"))
            for name, steps in stops.items():
                host = CoordinationService(
                    {name: steps}, event_bus=bus, journal=tmp_path / f"{name}.db", config=NEVER
                )
                await stack.enter_async_context(host)
            caller = CoordinationService(
                {}, event_bus=bus, journal=tmp_path / "caller.db", config=ALWAYS
            )
            await stack.enter_async_context(caller)
            result = await caller.coordinate_transaction(saga)
            assert result.success, result.error_message

    asyncio.run(scenario())
    whole = spans.one("coordinate saga_choreography")
    hosted = [s for s in spans.all() if s.name == "coordinate saga_orchestration"]
    parents = [span.parent.span_id for span in hosted if span.parent]
    assert parents == [whole.context.span_id] * 2
    assert {span.context.trace_id for span in spans.all()} == {whole.context.trace_id}
    for name, steps in stops.items():
        carried = {"traceparent": traceparent(spans.one(f"execute {name}"))}
        assert [asked.metadata for asked in steps.requests] == [carried]


def test_who_gives_up_waiting_leaves_a_span_that_ends_with_the_coordination(
    make_service: Make, spans: Spans
) -> None:
    left = Ledger("left")

    async def scenario() -> None:
        left.gate = asyncio.Event()
        async with make_service({"left": left}, config=ALWAYS) as service:
            asked = asyncio.create_task(service.coordinate_transaction(request("t1", "left")))
            while not left.calls:
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
            assert "coordinate two_phase_commit" not in [span.name for span in spans.all()]
            left.gate.set()
            assert (await service.wait_for("t1", 30)).success

    asyncio.run(scenario())
    whole = spans.one("coordinate two_phase_commit")
    assert attributes(whole)["unanimity.outcome"] == "committed"
    assert "unanimity.left_open" not in attributes(whole)


class Raises(SpanProcessor):
    def __init__(self, when: str) -> None:
        self.when = when

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        if self.when == "begins":
            raise LookupError("a processor of the user's")

    def on_end(self, span: ReadableSpan) -> None:
        if self.when == "ends":
            raise LookupError("a processor of the user's")


@pytest.mark.parametrize("when", ["begins", "ends"])
def test_a_processor_that_raises_changes_no_outcome(
    when: str, make_service: Make, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    spans.provider.add_span_processor(Raises(when))

    async def scenario() -> None:
        async with make_service({"left": Ledger("left")}, config=ALWAYS) as service:
            assert (await service.coordinate_transaction(request("t1", "left"))).success
            refused = await service.coordinate_transaction(request("t2", "nowhere"))
            assert refused.code == "request.unknown_store"

    asyncio.run(scenario())
    assert any(record.name == "unanimity.tracing" for record in caplog.records)


def test_every_span_is_ended_when_the_service_closes(make_service: Make, spans: Spans) -> None:
    begun: list[Span] = []

    class Counts(SpanProcessor):
        def on_start(self, span: Span, parent_context: Any = None) -> None:
            begun.append(span)

    spans.provider.add_span_processor(Counts())
    left = Ledger("left")

    async def scenario() -> None:
        left.gate = asyncio.Event()
        service = make_service({"left": left}, config=ALWAYS)
        await service.start()
        asked = asyncio.create_task(service.coordinate_transaction(request("t1", "left")))
        while not left.calls:
            await asyncio.sleep(0)
        await service.close(timeout=0)
        left.gate.set()
        await asyncio.wait([asked])

    asyncio.run(scenario())
    assert len(spans.all()) == len(begun) > 2


PROGRAM = """
import asyncio, logging, sys
sys.modules["opentelemetry"] = None
from unanimity import CoordinationService, CoordinationRequest, CoordinationType
from unanimity.stores import MemoryStore
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
async def main():
    for number in range(2):
        service = CoordinationService({"m": MemoryStore()}, journal="memory:", config=CONFIG)
        async with service, service.transaction() as tx:
            tx.add("m", "put", key="k", value=1)
        print(tx.result.outcome.value)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("config", "warnings"),
    [("{}", 0), ('{"monitoring": {"distributed_tracing_enabled": True}}', 1)],
)
def test_without_the_package_nothing_changes_but_one_warning_for_who_asked(
    config: str, warnings: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"CONFIG = {config}\n{PROGRAM}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    told = [line for line in lines if "unanimity[otel]" in line]
    assert lines.count("committed") == 2 and len(told) == warnings == len(lines) - 2
    assert all(line.startswith("WARNING unanimity.tracing ") for line in told)
