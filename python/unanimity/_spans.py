"""The open spans of one coordination, what they say, and how they end.

Not who keeps them, nor when they begin (`_tracing`). Names and attributes are those of
`docs/how-to/tracing.md`. Invariant: a span is ended once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import trace as otel
from opentelemetry.context import Context, attach
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from ._types import CoordinationRequest, CoordinationResult

# What the engine tells: act, coordination_id, began and ended in nanoseconds, ending, code,
# message, details.
Told = tuple[str, str, int, int, str, str, str, dict[str, Any]]

PROPAGATOR = TraceContextTextMapPropagator()


@dataclass
class Phase:
    """The questions of one kind: prepare, commit and so on."""

    span: Span
    context: Context
    began_ns: int
    ended_ns: int
    is_open: bool = True

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.span.end(end_time=max(self.began_ns, self.ended_ns))


@dataclass
class Trace:
    """What is open of one coordination."""

    span: Span
    context: Context
    has_begun: bool = False
    is_awaited: bool = False
    """Whether a caller waits; then the span ends with his answer."""
    is_over: bool = False
    """Whether the span has ended."""
    end: Told | None = None
    """What was told of the coordination's end before its caller had his answer."""
    phases: dict[str, Phase] = field(default_factory=dict)
    calls: dict[tuple[str, str, str | None], deque[Span]] = field(default_factory=dict)


def caller_of(request: CoordinationRequest) -> Context | None:
    """Give the context of the caller's span, or of the trace that its metadata name."""
    metadata = request.metadata
    if otel.get_current_span().get_span_context().is_valid or not isinstance(metadata, dict):
        return None
    named = {key: metadata.get(key) for key in ("traceparent", "tracestate")}
    headers = {key: value for key, value in named.items() if isinstance(value, str)}
    return PROPAGATOR.extract(headers) if headers else None


def attributes_of(request: CoordinationRequest, kind: str) -> Attributes:
    return {
        "unanimity.coordination.id": request.coordination_id,
        "unanimity.coordination.type": kind,
        "unanimity.consistency_level": word_of(request.consistency_level),
    }


def word_of(given: object) -> str:
    return str(getattr(given, "value", given))


def make_current(span: Span) -> Context:
    inside = set_span_in_context(span)
    attach(inside)
    return inside


def carrier_of(context: Context | None) -> dict[str, str]:
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier, context)
    return carrier


def name_of(act: str, details: dict[str, Any]) -> tuple[str, Attributes]:
    """Give the name of a span that belongs to no store, and what it says."""
    if act == "locks":
        return "acquire locks", {"unanimity.lock.count": details["count"]}
    if act == "record":
        return f"record {details['kind']}", {"unanimity.record.kind": details["kind"]}
    if act == "propose":
        return "propose decision", {"unanimity.decision": details["decision"]}
    return act.replace("_", " "), {}


def judge(span: Span, told: Told) -> None:
    """Say how it ended; what went well has no status, as the conventions have it."""
    *_, ending, code, message, _ = told
    span.set_attribute("unanimity.ending", ending)
    if ending != "done":
        fail(span, code, message)


def fail(span: Span, code: str, message: str | None) -> None:
    span.set_attribute("error.type", code or "_OTHER")
    span.set_status(Status(StatusCode.ERROR, message))


def end_as_told(trace: Trace, told: Told) -> None:
    _, _, _, ended_ns, ending, code, message, details = told
    if trace.is_over:
        return
    trace.is_over = True
    trace.span.set_attribute("unanimity.outcome", details["outcome"])
    trace.span.set_attribute("unanimity.state", details["state"])
    if ending != "done":
        fail(trace.span, code or details["outcome"], message)
    trace.span.end(end_time=ended_ns)


def end_by_result(span: Span, result: CoordinationResult) -> None:
    outcome = result.outcome.value
    span.set_attribute("unanimity.outcome", outcome)
    span.set_attribute("unanimity.state", result.final_state.value)
    if not result.success:
        fail(span, result.code or outcome, result.error_message)
    span.end()


def close(trace: Trace, now_ns: int) -> None:
    for waiting in trace.calls.values():
        for span in waiting:
            fail(span, "store.unknown", "no answer came before the coordination was left")
            span.end(end_time=now_ns)
    for phase in trace.phases.values():
        phase.close()
