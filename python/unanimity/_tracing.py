"""Spans of coordinations, made with the API of OpenTelemetry of what the engine tells.

Not the engine's own log, and imported only where tracing acts: it needs `opentelemetry-api`.
Everything here runs on the event loop's thread, behind what it is about: the engine tells in
batches what has ended (`_engine.Tracer`), and nothing of a coordination waits for a span. Only
the span of a coordination and those of calls of Python stores are begun when they begin, so that
what stores do is part of the trace.

Invariants: a coordination that is not sampled costs no span; what is open is bounded, the oldest
is given up first; every span that was begun is ended, at the latest when the service closes.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace as otel
from opentelemetry.context import Context, attach
from opentelemetry.trace import Link, Span, SpanKind, set_span_in_context

from . import _engine
from ._spans import (
    PROPAGATOR,
    Phase,
    Told,
    Trace,
    attributes_of,
    caller_of,
    carrier_of,
    close,
    end_as_told,
    end_by_result,
    fail,
    judge,
    make_current,
    name_of,
    word_of,
)
from ._types import CoordinationRequest, CoordinationResult

_TRACES_MAX = 10_000
_LOGGER = logging.getLogger("unanimity.tracing")
# The database behind a store of `unanimity.stores`, by the names of OpenTelemetry's conventions.
_SYSTEMS = {
    "SqliteStore": "sqlite",
    "PostgresStore": "postgresql",
    "RedisStore": "redis",
    "MySqlStore": "mysql",
}


@contextmanager
def _logged(message: str, what: object) -> Iterator[None]:
    """Log what a span processor of the user's raises, most likely: it changes nothing else."""
    try:
        yield
    except Exception:
        _LOGGER.exception(message, what)


class Tracing:
    """The spans of one service."""

    def __init__(self, bridge: _engine.Bridge, rate: float, stores: Mapping[str, object]) -> None:
        """Trace this share of the coordinations that begin a trace, and all of sampled traces."""
        self._tracer = otel.get_tracer("unanimity", _engine.version())
        # Weak, because it is held by what we hold.
        self.native = _engine.Tracer(bridge, weakref.proxy(self), rate)
        self._traces: dict[str, Trace] = {}
        kinds = {name: type(store) for name, store in stores.items()}
        self._systems = {
            name: _SYSTEMS[kind.__name__]
            for name, kind in kinds.items()
            if kind.__module__ == "unanimity.stores" and kind.__name__ in _SYSTEMS
        }

    # ---- requests of this process -----------------------------------------------------------

    def coordinate(
        self,
        coordinator: _engine.Coordinator,
        request: CoordinationRequest,
        context: contextvars.Context,
        future: asyncio.Future[CoordinationResult],
    ) -> None:
        """Have a request coordinated in a span, which ends when `future` is done."""
        headers: dict[str, str] = {}
        with _logged("no span can be begun of %r", request.coordination_id):
            headers = self._begin(request, context, future)
        try:
            coordinator.coordinate(request, context, future, headers)
        except BaseException:
            # Its caller hears of it; with the wait over, so is the span.
            trace = self._traces.get(request.coordination_id)
            if headers and trace is not None and not trace.has_begun:
                self._give_up(request.coordination_id)
            raise

    def _begin(
        self,
        request: CoordinationRequest,
        context: contextvars.Context,
        future: asyncio.Future[CoordinationResult],
    ) -> dict[str, str]:
        """Give what the metadata tell of the trace; nothing where it belongs to none.

        A trace that is not sampled is passed on, and gets no spans.
        """
        coordination_id: Any = request.coordination_id
        if not isinstance(coordination_id, str):
            return {}
        within = caller_of(request)
        parent = otel.get_current_span(within).get_span_context()
        if parent.is_valid and not parent.trace_flags.sampled:
            return carrier_of(within)
        if not parent.is_valid and not self.native.samples(coordination_id):
            return {}
        kind = word_of(request.coordination_type)
        span = self._tracer.start_span(
            f"coordinate {kind}", within, attributes=attributes_of(request, kind)
        )
        inside = set_span_in_context(span, within)
        context.run(attach, inside)
        if span.is_recording():
            trace = Trace(span, inside, is_awaited=True)
            if self.native.follow(coordination_id):
                self._keep(coordination_id, trace)
            future.add_done_callback(
                lambda answered: self._answered(coordination_id, trace, answered)
            )
        return carrier_of(inside)

    def _answered(
        self,
        coordination_id: str,
        trace: Trace,
        future: asyncio.Future[CoordinationResult],
    ) -> None:
        trace.is_awaited = False
        with _logged("no span can be ended of %r", coordination_id):
            self._end_by_answer(trace, future)
        if not trace.has_begun and self._traces.get(coordination_id) is trace:
            # Refused, or known from before: nothing more will be told of it.
            self._give_up(coordination_id)

    def _end_by_answer(self, trace: Trace, future: asyncio.Future[CoordinationResult]) -> None:
        if future.cancelled():
            # Only the wait was: the coordination goes on, and its end is told.
            if trace.end is not None:
                end_as_told(trace, trace.end)
            return
        error = future.exception()
        if not trace.is_over:
            trace.is_over = True
            if error is None:
                end_by_result(trace.span, future.result())
            else:
                code = getattr(error, "code", None) or type(error).__qualname__
                fail(trace.span, code, str(error))
                trace.span.end()

    # ---- what the engine tells --------------------------------------------------------------

    def take(self, batch: Iterable[Told]) -> None:
        """Make spans of what has ended."""
        for told in batch:
            with _logged("no span can be made of %r", told):
                self._take(told)

    def _take(self, told: Told) -> None:
        act, coordination_id, began_ns, ended_ns, *_ = told
        trace = self._traces.get(coordination_id)
        if act == "began":
            if trace is None:
                trace = self._begin_untold(coordination_id, began_ns, told[-1])
            trace.has_begun = True
        elif trace is None:
            return
        elif act == "call":
            self._call_ended(trace, told)
        elif act == "ended":
            self._ended(coordination_id, trace, told)
        else:
            name, attributes = name_of(act, told[-1])
            span = self._tracer.start_span(
                name, trace.context, attributes=attributes, start_time=began_ns
            )
            judge(span, told)
            span.end(end_time=ended_ns)

    def _begin_untold(self, coordination_id: str, began_ns: int, details: dict[str, Any]) -> Trace:
        """Begin the span of what nobody asked for here: one that was left open, a stop, an outbox.

        What goes on after a process died is a trace of its own, linked to the one before.
        """
        before = PROPAGATOR.extract(details, Context())
        origin = otel.get_current_span(before).get_span_context()
        is_resumed = details["is_resumed"]
        verb = "resume" if is_resumed else "coordinate"
        span = self._tracer.start_span(
            f"{verb} {details['type']}",
            Context() if is_resumed else before,
            links=[Link(origin)] if is_resumed and origin.is_valid else None,
            attributes={
                "unanimity.coordination.id": coordination_id,
                "unanimity.coordination.type": details["type"],
                "unanimity.resumed": is_resumed,
            },
            start_time=began_ns,
        )
        trace = Trace(span, set_span_in_context(span, Context()))
        self._keep(coordination_id, trace)
        return trace

    def call_starts(
        self,
        context: contextvars.Context | None,
        coordination_id: str,
        call: str,
        store: str,
        operation: str | None,
        asked_ns: int,
    ) -> tuple[contextvars.Context | None, dict[str, str]]:
        """Begin the span of a call of a Python store.

        Gives the context in which the call runs, and the W3C headers for its metadata.
        """
        trace = self._traces.get(coordination_id)
        if trace is None:
            return context, {}
        span = self._call_span(trace, call, store, operation, asked_ns)
        trace.calls.setdefault((call, store, operation), deque()).append(span)
        context = contextvars.Context() if context is None else context.copy()
        inside = context.run(make_current, span)
        return context, carrier_of(inside)

    def _call_span(
        self, trace: Trace, call: str, store: str, operation: str | None, began_ns: int
    ) -> Span:
        attributes: dict[str, str] = {"unanimity.store.name": store}
        if operation is not None:
            attributes["unanimity.operation.id"] = operation
        system = self._systems.get(store)
        if system is not None:
            attributes["db.system.name"] = system
        phase = self._phase(trace, call, began_ns)
        return self._tracer.start_span(
            f"{call} {store}",
            phase.context,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=began_ns,
        )

    def _phase(self, trace: Trace, call: str, began_ns: int) -> Phase:
        phase = trace.phases.get(call)
        if phase is None:
            for before in trace.phases.values():
                before.close()
            span = self._tracer.start_span(
                f"{call} phase",
                trace.context,
                attributes={"unanimity.phase": call},
                start_time=began_ns,
            )
            context = set_span_in_context(span, trace.context)
            phase = trace.phases[call] = Phase(span, context, began_ns, began_ns)
        return phase

    def _call_ended(self, trace: Trace, told: Told) -> None:
        _, _, began_ns, ended_ns, *_, details = told
        call, store, operation = details["call"], details["store"], details.get("operation")
        waiting = trace.calls.get((call, store, operation))
        if waiting:
            span = waiting.popleft()
        else:
            span = self._call_span(trace, call, store, operation, began_ns)
        if "attempt" in details:
            span.set_attribute("unanimity.attempt", details["attempt"])
        judge(span, told)
        span.end(end_time=ended_ns)
        phase = self._phase(trace, call, began_ns)
        phase.ended_ns = max(phase.ended_ns, ended_ns)

    def _ended(self, coordination_id: str, trace: Trace, told: Told) -> None:
        del self._traces[coordination_id]
        if trace.is_awaited:
            trace.end = told
        else:
            end_as_told(trace, told)
        close(trace, told[3])

    # ---- what is kept -----------------------------------------------------------------------

    def _keep(self, coordination_id: str, trace: Trace) -> None:
        if len(self._traces) >= _TRACES_MAX:
            self._give_up(next(iter(self._traces)))
        self._traces[coordination_id] = trace

    def _give_up(self, coordination_id: str) -> None:
        self.native.forget(coordination_id)
        trace = self._traces.pop(coordination_id)
        now = time.time_ns()
        with _logged("the spans of %r cannot be ended", coordination_id):
            if not trace.is_over:
                trace.is_over = True
                trace.span.set_attribute("unanimity.left_open", True)
                trace.span.end(end_time=now)
        with _logged("the spans of %r cannot be ended", coordination_id):
            close(trace, now)

    def close(self) -> None:
        """End what is open: it is left to the next service."""
        self.native.flush()
        for coordination_id in list(self._traces):
            self._give_up(coordination_id)
