"""Traces of clips and streams, taken by the SDK's in-memory exporter; and by a collector, of the service as users start it."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from service import exit_codes
from service.otel import MAX_WINDOWS, OtelTracer
from service.tracing import NULL_TRACE, Lap, NullTracer, current_trace
from tests.support.app_server import AppServer, serving
from tests.support.process import clean_environ, running
from tests.support.rest import MUSIC, SPEECH, heard, wav
from tests.support.runners import FakeRunner
from tests.support.shared import REPOSITORY
from tests.support.websocket import stream_pieces

TRACE_ID, PARENT_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE_ID:032x}-{PARENT_ID:016x}-01"
RAW = {"encoding": "s16le", "sample_rate": 16_000, "channels": 1}


class Spans:
    """What a tracer made, once it is closed or the server that has it is."""

    def __init__(self, **options: object) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False, **options)  # type: ignore[arg-type]
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = OtelTracer(provider, time.monotonic)

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def below(self, parent: ReadableSpan) -> list[ReadableSpan]:
        """Return a span's children, by their beginning."""
        identity = parent.context
        assert identity is not None
        children = [span for span in self.all if span.parent and span.parent.span_id == identity.span_id]
        assert all(child.context and child.context.trace_id == identity.trace_id for child in children)
        return sorted(children, key=lambda span: span.start_time or 0)


@contextmanager
def traced(**options: object) -> Iterator[tuple[AppServer, Spans]]:
    spans = Spans(**options)
    with serving(FakeRunner(batch_sizes=(1, 2)), tracer=spans.tracer) as server:
        yield server, spans


def expect_order(spans: list[ReadableSpan]) -> None:
    """Check that each stage begins when the one before it is over, or later: to a microsecond, as clocks are compared."""
    for before, after in itertools.pairwise(spans):
        assert before.end_time is not None
        assert after.start_time is not None
        assert before.start_time is not None
        assert before.start_time <= before.end_time <= after.start_time + 1000


def test_a_request_goes_through_decoding_and_its_windows_through_the_model() -> None:
    before = time.time_ns()
    with traced() as (server, spans):
        clip = wav(heard((SPEECH, 1), (MUSIC, 1)))
        headers = {"X-Request-Id": "abc", "traceparent": TRACEPARENT}
        assert httpx.post(f"{server.url}/v1/classify", content=clip, headers=headers).status_code == 200
    (request,) = spans.named("/v1/classify")
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert request.context is not None
    assert (request.context.trace_id, request.parent.span_id) == (TRACE_ID, PARENT_ID), "the caller's trace goes on"
    assert dict(request.attributes or {}) == {
        "http.route": "/v1/classify",
        "http.response.status_code": 200,
        "sonotag.id": "abc",
        "sonotag.windows": 2,
    }
    children = spans.below(request)
    assert [span.name for span in children] == ["decode", "window", "window"]
    for window in children[1:]:
        stages = spans.below(window)
        assert [span.name for span in stages] == ["queue", "infer", "postprocess"]
        expect_order(stages)
    for span in spans.all:
        assert span.start_time is not None
        assert span.end_time is not None
        assert before <= span.start_time <= span.end_time <= time.time_ns()


def test_the_windows_of_a_stream_are_traces_of_their_own_linked_to_it() -> None:
    with traced() as (server, spans):
        told = asyncio.run(stream_pieces(server.url, RAW, [heard((SPEECH, 1)).tobytes()] * 3))
        assert len(told.tags) == 3
    (stream,) = spans.named("/v1/stream")
    assert dict(stream.attributes or {}) == {
        "sonotag.id": told.of_type("ready")[0]["session_id"],
        "sonotag.outcome": "done",
        "sonotag.received_seconds": 3.0,
        "sonotag.windows": 3,
    }
    windows = spans.named("window")
    assert len(windows) == 3
    for window in windows:
        assert window.parent is None
        assert [link.context for link in window.links] == [stream.context]
        stages = spans.below(window)
        assert [span.name for span in stages] == ["decode", "queue", "infer", "postprocess"]
        expect_order(stages)
    assert len({window.context.trace_id for window in windows if window.context}) == 3


def test_a_request_that_fails_is_traced_with_its_status_and_health_checks_are_not() -> None:
    with traced() as (server, spans):
        assert httpx.post(f"{server.url}/v1/classify", content=b"no sound").status_code == 415
        assert httpx.get(f"{server.url}/odd/path").status_code == 404
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert httpx.get(server.url + path).status_code == 200
    seen = [(span.name, (span.attributes or {})["http.response.status_code"]) for span in spans.all]
    assert seen == [("/v1/classify", 415), ("other", 404)]


def test_a_long_clip_makes_no_endless_trace() -> None:
    with traced() as (server, spans):
        clip = wav(heard((SPEECH, MAX_WINDOWS + 20)))
        assert httpx.post(f"{server.url}/v1/classify", content=clip, timeout=60).status_code == 200
    (request,) = spans.named("/v1/classify")
    assert (request.attributes or {})["sonotag.windows"] == MAX_WINDOWS + 20
    assert len(spans.named("window")) == MAX_WINDOWS
    assert 1 <= len(spans.named("decode")) <= MAX_WINDOWS


def test_what_the_sampler_leaves_out_is_not_made() -> None:
    with traced(sampler=ALWAYS_OFF) as (server, spans):
        clip = wav(heard((SPEECH, 2)))
        assert httpx.post(f"{server.url}/v1/classify", content=clip).status_code == 200
        assert asyncio.run(stream_pieces(server.url, RAW, [clip])).code == 1000
    assert spans.all == ()


def test_an_error_of_ours_ends_the_trace_and_is_marked() -> None:
    spans = Spans()

    def fail() -> None:
        with spans.tracer.begin("request", []) as trace:
            assert current_trace() is trace
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert current_trace() is NULL_TRACE
    assert [span.status.status_code for span in spans.all] == [StatusCode.ERROR]


def test_headers_that_are_no_trace_begin_a_new_one() -> None:
    spans = Spans()
    with spans.tracer.begin("stream", [(b"traceparent", b"\xff nonsense"), (b"tracestate", b"=,=")]):
        pass
    assert [span.parent for span in spans.all] == [None]


def test_without_traces_nothing_is_recorded() -> None:
    tracer = NullTracer()
    with tracer.begin("request", []) as trace, tracer.begin("stream", []) as other:
        assert trace is other is current_trace() is NULL_TRACE
        assert not trace.is_recording
        trace.stage_done(Lap("decode", 0.0, 1.0))
        trace.window_done([Lap("infer", 0.0, 1.0)])
        trace.describe("/", {})
    tracer.close()


class Collector(ThreadingHTTPServer):
    """Takes what an OTLP exporter sends."""

    def __init__(self) -> None:
        received: queue.Queue[ExportTraceServiceRequest] = queue.Queue()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                received.put(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.received = received


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_service_sends_its_traces_before_it_ends(collector: Collector, tmp_path: Path) -> None:
    environ = {
        "SONOTAG_TRACES": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",
    }
    with running("tests.support.fake_server", environ=environ, cwd=tmp_path) as service:
        service.wait_ready()
        clip = wav(heard((SPEECH, 1)))
        assert httpx.post(f"{service.url}/v1/classify", content=clip).status_code == 200
        assert service.end_cleanly() == exit_codes.OK
        assert "Traceback" not in service.stderr
    sent = collector.received.get(timeout=60).resource_spans
    names = {span.name for resource in sent for scope in resource.scope_spans for span in scope.spans}
    assert names == {"/v1/classify", "decode", "window", "queue", "infer", "postprocess"}
    resource = {item.key: item.value.string_value for item in sent[0].resource.attributes}
    assert resource["service.name"] == "sonotag"
    assert resource["service.version"]


def run_python(program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program where the repository's modules are."""
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, cwd=REPOSITORY, env=clean_environ(**environ), capture_output=True, text=True, timeout=120, check=False
    )


def test_a_service_without_traces_loads_nothing_of_them() -> None:
    done = run_python(
        "import sys; from service.app import create_app; from service.settings import Settings; "
        "create_app(Settings(_env_file=None)); print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    assert done.stdout == "[]\n", done.stderr


def test_traces_without_the_extra_stop_the_start_and_name_it() -> None:
    done = run_python(
        "import sys; sys.modules['opentelemetry.sdk'] = None; sys.argv = ['sonotag', 'serve']; "
        "from service.__main__ import main; sys.exit(main())",
        SONOTAG_TRACES="otlp",
    )
    assert done.returncode == exit_codes.START, done.stderr
    assert "SONOTAG_TRACES is otlp, which needs the extra sonotag[otel]" in done.stderr
    assert "Traceback" not in done.stderr
