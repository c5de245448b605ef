"""Spans by OpenTelemetry: the only module that imports it, and only where somebody traces.

What is exported where, how much is sampled, and what the process is called besides, OpenTelemetry
reads from its own `OTEL_*` variables.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_NAMESPACE,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode

from services.runtime.tracing import Span, parent_of, trace_with

__all__ = ["OtelTracer", "start"]

FLUSH: Final = 1.5
"""Seconds at most that a process which ends waits for its last spans to be taken."""


def start(service: str, instance: str) -> Callable[[], None]:
    """Trace this process from now on, by OTLP over HTTP; call what it returns at the end.

    Raises `ImportError` where the exporter is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    name = os.environ.get("OTEL_SERVICE_NAME") or "consonance"
    provider = TracerProvider(
        resource=Resource.create(
            {
                SERVICE_NAMESPACE: name,
                SERVICE_NAME: f"{name}-{service}",
                SERVICE_INSTANCE_ID: f"{service}-{instance}",
            }
        ),
        shutdown_on_exit=False,  # the process leaves without the interpreter's farewell
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace_with(OtelTracer(provider))

    def stop() -> None:
        trace_with(None)
        # A collector that does not answer holds nobody up.
        last = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(FLUSH)

    return stop


class OtelTracer:
    """Makes spans of a provider."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer("consonance")

    def begin(
        self,
        name: str,
        parent: str | None,
        links: Iterable[str | None],
        at: float | None,
        facts: Mapping[str, Any],
    ) -> Span:
        """A span that has begun."""
        above = _context_of(parent)
        others = dict.fromkeys(link for link in links if link and link != parent)
        linked = [Link(found) for link in others if (found := _context_of(link)) is not None]
        made = self._tracer.start_span(
            name,
            # An empty context, not None: that would be whatever else is open in this thread.
            context=trace.set_span_in_context(
                trace.INVALID_SPAN if above is None else NonRecordingSpan(above)
            ),
            links=linked,
            start_time=_nanoseconds(at),
            attributes={f"consonance.{key}": it for key, it in facts.items() if it is not None},
            record_exception=False,
            set_status_on_exception=False,
        )
        return _Span(made)


class _Span(Span):
    __slots__ = ("_open", "_span")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._open = True

    @property
    def traceparent(self) -> str | None:
        found = self._span.get_span_context()
        return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"

    def call(self, name: str) -> None:
        self._span.update_name(name)

    def note(self, **facts: Any) -> None:
        for key, value in facts.items():
            if value is not None:
                self._span.set_attribute(f"consonance.{key}", value)

    def fail(self, why: str) -> None:
        if self._open:
            self._span.set_status(Status(StatusCode.ERROR, why))

    def end(self, at: float | None = None) -> None:
        if self._open:
            self._open = False
            self._span.end(_nanoseconds(at))


def _context_of(traceparent: str | None) -> SpanContext | None:
    known = parent_of(traceparent)
    if known is None:
        return None
    _, of_trace, of_span, flags = known.split("-")
    return SpanContext(
        int(of_trace, 16),
        int(of_span, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(flags, 16) & trace.TraceFlags.SAMPLED),
    )


def _nanoseconds(at: float | None) -> int | None:
    return None if at is None else int(at * 1e9)
