"""Spans of requests, for whoever collects them by OpenTelemetry; nothing of it where no collector is configured.

    predict resnet18          from when the request was sent to its answer; joins the caller's trace (traceparent)
    ├── queue                 until a worker took its batch
    ├── decode · stack · forward · encode      as the batch spent its time; several micro-batches are several of each

OpenTelemetry's own variables configure it (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, …).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from smartbatch_worker.contract import headers
from smartbatch_worker.contract.environment import TRACE_ENDPOINTS
from smartbatch_worker.flow.rows import Row
from smartbatch_worker.torchserve.requests import MAX_CLOCK_AHEAD_S
from smartbatch_worker.torchserve.telemetry import StageTimer

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

SERVICE = "smartbatch"
_CLIENTS_FAULT = 500
"""A status below it is none of ours, and by OpenTelemetry's conventions no error of a server's span."""


class Traces:
    """Of one worker; sends from a thread of its own.

    Args:
        model: its name.
        provider: where the spans go.
    """

    def __init__(self, model: str, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._model = model
        self._tracer = provider.get_tracer("smartbatch")
        self._propagator = TraceContextTextMapPropagator()

    def record(self, rows: Sequence[Row], timer: StageTimer) -> None:
        """The spans of a batch that has been answered.

        Args:
            rows: its requests, each with its status.
            timer: when it was at what.
        """
        now, now_ns = time.perf_counter(), time.time_ns()

        def unix_ns(moment: float) -> int:
            return now_ns - round((now - moment) * 1e9)

        begun_ns = unix_ns(timer.started)
        stages = [(name, unix_ns(start), unix_ns(end)) for name, start, end in timer.spells]
        for row in rows:
            self._record(row, len(rows), _sent_ns(row, begun_ns), begun_ns, stages, now_ns)

    def _record(
        self,
        row: Row,
        batch_size: int,
        sent_ns: int,
        begun_ns: int,
        stages: Sequence[tuple[str, int, int]],
        ended_ns: int,
    ) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        span = self._tracer.start_span(
            f"predict {self._model}",
            context=self._caller(row),
            kind=SpanKind.SERVER,
            start_time=sent_ns,
            attributes={
                "http.request.method": "POST",
                "http.response.status_code": row.status,
                "smartbatch.model": self._model,
                "smartbatch.batch_size": batch_size,
                "smartbatch.forward_size": row.forward_size,
                "smartbatch.items": len(row.items),
            },
        )
        if span.is_recording():
            if row.error is not None:
                span.set_attribute("error.type", row.error.code)
                if row.status >= _CLIENTS_FAULT:
                    span.set_status(Status(StatusCode.ERROR, row.error.message))
            inside = set_span_in_context(span)
            for name, start_ns, end_ns in [("queue", sent_ns, begun_ns), *stages]:
                self._tracer.start_span(name, context=inside, start_time=start_ns).end(end_ns)
        span.end(ended_ns)

    def _caller(self, row: Row) -> Context:
        """The trace that the request belongs to; a new one where it names none, or nothing that is one."""
        return self._propagator.extract(row.headers)


def open_traces(model: str, env: Mapping[str, str]) -> Traces | None:
    """Where a collector is configured; None where none is, or OpenTelemetry is not installed."""
    configured = next((name for name in TRACE_ENDPOINTS if env.get(name)), None)
    if configured is None or env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning(
            "%s is set, and no traces are sent: %s (pip install 'smartbatch[otel]' where workers run)",
            configured,
            error,
        )
        return None
    is_named = env.get("OTEL_SERVICE_NAME") or "service.name" in env.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if is_named else {SERVICE_NAME: SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(model, provider)


def _sent_ns(row: Row, begun_ns: int) -> int:
    """When the request was sent, as our frontend or a proxy stamped it; else when its batch began."""
    text = row.headers.get(headers.START.lower(), "").strip().removeprefix("t=")
    try:
        sent_ns = round(float(text) * 1e9)
    except (ValueError, OverflowError):
        return begun_ns
    is_believable = 0 < sent_ns <= begun_ns + MAX_CLOCK_AHEAD_S * 1e9
    return min(sent_ns, begun_ns) if is_believable else begun_ns
