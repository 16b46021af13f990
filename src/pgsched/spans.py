"""Spans of OpenTelemetry, and how they are carried: from the enqueue to the push of a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import orjson
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pgsched.models import ClaimedTask

_PROPAGATOR = TraceContextTextMapPropagator()


class Carrier:
    """
    Gives new tasks the trace of a span, and the span as the parent of their pushes.

    The parent stands in the `schedule_config`, as `traceparent`, which every
    round of a loop inherits with the trace.  A task of another trace has no
    parent here.
    """

    def __init__(self, span: Span) -> None:
        self._fields = headers_of(span)
        context = span.get_span_context()
        self._trace_id = UUID(int=context.trace_id) if context.is_valid else None

    def put_on(self, given: Any) -> Any:
        """The arguments of a new task with these; what is malformed is left to others."""
        if self._trace_id is None or not isinstance(given, Mapping):
            return given
        said, config = given.get("trace_id"), given.get("schedule_config") or {}
        if said not in (None, self._trace_id, str(self._trace_id)) or not isinstance(config, dict):
            return given
        return {**given, "trace_id": self._trace_id, "schedule_config": self._fields | config}


def headers_of(span: Span) -> dict[str, str]:
    """`traceparent`, and `tracestate` if there is one; empty if the span is none."""
    fields: dict[str, str] = {}
    _PROPAGATOR.inject(fields, trace.set_span_in_context(span, Context()))
    return fields


def context_of(headers: Mapping[str, str]) -> Context:
    """What the headers of a request carry."""
    return _PROPAGATOR.extract(headers, Context())


@contextmanager
def enqueuing(function: str, **attributes: str | int) -> Iterator[Carrier]:
    """A span around the call of *function*, and what carries it."""
    tracer = trace.get_tracer("pgsched")
    named = {f"pgsched.{name}": value for name, value in attributes.items()}
    with tracer.start_as_current_span(
        f"pgsched {function}", kind=SpanKind.PRODUCER, attributes=named
    ) as span:
        yield Carrier(span)


def parent_of(task: ClaimedTask, tracer: Tracer) -> SpanContext:
    """
    The span that *task* was enqueued in; without one a made-up one, in the trace of the task.

    That one is the same for all tasks of a trace, and sampled as the sampler
    would a new trace.
    """
    trace_id = UUID(task.trace_id).int
    carried = _carried_by(task)
    if carried.trace_id == trace_id:
        return carried
    flags = TraceFlags.SAMPLED if _is_sampled(tracer, trace_id) else TraceFlags.DEFAULT
    span_id = trace_id & (2**64 - 1) or 1
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def _carried_by(task: ClaimedTask) -> SpanContext:
    raw = orjson.dumps(task.schedule_config)  # it was never parsed
    if b"traceparent" not in raw:
        return trace.INVALID_SPAN_CONTEXT
    fields = {k: v for k, v in orjson.loads(raw).items() if isinstance(v, str)}
    return trace.get_current_span(context_of(fields)).get_span_context()


def _is_sampled(tracer: Tracer, trace_id: int) -> bool:
    sampler = getattr(tracer, "sampler", None)  # as the tracers of the SDK have one
    if sampler is None:
        return True
    said = sampler.should_sample(Context(), trace_id, "pgsched", SpanKind.CLIENT, {}, ())
    return bool(said.decision.is_sampled())


def below(parent: SpanContext) -> Context:
    """A context in which *parent* is the current span, and nothing else is."""
    return trace.set_span_in_context(NonRecordingSpan(parent), Context())
