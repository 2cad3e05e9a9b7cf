"""Spans of requests, as a collector gets them: over HTTP, in OTLP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from smartbatch_worker.torchserve import tracing

from tests.contract.in_process import Worker, request

MODEL = """
import torch


class Line(torch.nn.Module):
    def forward(self, x):
        return 2 * x + 1
"""
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
UNSAMPLED = f"00-{'1' * 32}-{'2' * 16}-00"


class Collector:
    """An HTTP server that keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        collector = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.received.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[Span]:
        return [
            span
            for sent in self.received
            for resource in sent.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait_for_requests(self, count: int) -> list[Span]:
        """All spans, once so many requests' own are there: each is sent with or after what it holds."""
        deadline = time.monotonic() + 60
        while len(requests_of(spans := self.spans())) < count:
            assert time.monotonic() < deadline, spans
            time.sleep(0.02)
        return spans


def requests_of(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.name.startswith("predict ")]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    found = Collector()
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def worker(folder: Path) -> Worker:
    (folder / "model.py").write_text(MODEL)
    return Worker(folder, {"model": "model.py", "input_shape": [4], "micro_batch": 2})


def attributes(span: Span) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


def test_a_request_is_a_span_with_what_its_batch_did(collector: Collector, tmp_path: Path) -> None:
    sent = time.time() - 0.5
    item = [1, 2, 3, 4]
    replies = worker(tmp_path).answer(
        request(item, traceparent=f"00-{TRACE}-{CALLER}-01", X_Request_Start=f"t={sent:.6f}"),
        request([item, item]),
        request(b"["),
        request(item, traceparent=UNSAMPLED),
    )
    assert len(replies) == 4
    spans = collector.wait_for_requests(3)
    (named,) = {
        pair.value.string_value
        for sent_on in collector.received
        for resource in sent_on.resource_spans
        for pair in resource.resource.attributes
        if pair.key == "service.name"
    }
    assert named == "smartbatch"
    roots = requests_of(spans)
    assert len(roots) == 3, "a caller that does not sample is not sent"
    (joined,) = [span for span in roots if span.trace_id.hex() == TRACE]
    assert joined.parent_span_id.hex() == CALLER
    assert joined.kind == Span.SPAN_KIND_SERVER
    assert abs(joined.start_time_unix_nano / 1e9 - sent) < 0.001
    assert attributes(joined)["smartbatch.batch_size"] == 4
    assert attributes(joined)["http.response.status_code"] == 200
    inside = sorted(
        (span for span in spans if span.parent_span_id == joined.span_id), key=lambda span: span.start_time_unix_nano
    )
    assert [span.name for span in inside][:2] == ["queue", "decode"]
    assert {span.name for span in inside} == {"queue", "decode", "stack", "forward", "encode"}
    assert inside[-1].name == "encode"
    assert all(joined.start_time_unix_nano <= s.start_time_unix_nano <= s.end_time_unix_nano for s in inside)
    assert inside[-1].end_time_unix_nano <= joined.end_time_unix_nano
    (failed,) = [span for span in roots if attributes(span)["http.response.status_code"] == 400]
    assert attributes(failed)["error.type"] == "malformed"
    assert failed.status.code != Status.STATUS_CODE_ERROR, "the client's fault is no error of the server's span"


def test_nothing_is_traced_where_no_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert tracing.open_traces("m", {}) is None
    disabled = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}
    assert tracing.open_traces("m", disabled) is None


@pytest.mark.parametrize("start", ["soon", "-1", "nan", "inf", "1e30", ""])
def test_a_start_that_is_none_is_the_batchs(start: str, collector: Collector, tmp_path: Path) -> None:
    before = time.time_ns()
    worker(tmp_path).answer(request([1, 2, 3, 4], X_Request_Start=start))
    roots = requests_of(collector.wait_for_requests(1))
    assert before <= roots[0].start_time_unix_nano <= roots[0].end_time_unix_nano
