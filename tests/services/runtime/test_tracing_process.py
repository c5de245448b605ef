"""Traces of processes of their own: when they are asked for, and where their spans arrive."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bus import connect
from bus.broker import Broker
from schemas import EncodeFailed, EncodeRequested, Event, FleetHeartbeat
from services.errors import SettingsError
from services.runtime import logs
from services.runtime.tracing_start import start_tracing, wanted

ROOT = Path(__file__).resolve().parents[3]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"


class Collector(BaseHTTPRequestHandler):
    """Takes what an exporter sends, as OpenTelemetry's own collector does."""

    taken: ClassVar[list[tuple[str, Any]]] = []

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            raw = gzip.decompress(raw)
        for one in ExportTraceServiceRequest.FromString(raw).resource_spans:
            names = {each.key: each.value.string_value for each in one.resource.attributes}
            for scope in one.scope_spans:
                self.taken.extend((names["service.name"], each) for each in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def collector() -> Iterator[str]:
    Collector.taken.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_process_of_its_own_goes_on_with_a_trace_that_came_over_a_socket(
    short_path: Path, collector: str
) -> None:
    url = f"ipc://{short_path / 'bus'}"
    router = (sys.executable, "-m", "services.router", "--state", short_path, "--bus", url)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_ENDPOINT": collector}
    async with (
        Broker(url, short_path),
        await connect(url, source="/client/1") as bus,
        bus.watch(FleetHeartbeat) as beats,
    ):
        process = await asyncio.create_subprocess_exec(*router, env=environment)
        try:
            heard = ("", "")
            while heard != ("router", "ready"):
                beat = (await beats.get(timeout=30)).data
                heard = (beat.service, beat.state)
            request = EncodeRequested(texts=(), reply_to=bus.address)
            asked = Event(data=request, source=bus.source, traceparent=GIVEN)
            failed = await bus.request(asked, EncodeFailed, timeout=20)
        finally:
            process.terminate()
            code = await process.wait()

    # Then its span is here: a process that ends sends what it has.
    ((service, made),) = Collector.taken
    assert (code, service, made.name) == (0, "consonance-router", "router request")
    assert (made.trace_id.hex(), made.parent_span_id.hex()) == (TRACE, PARENT)
    assert failed.traceparent == f"00-{TRACE}-{made.span_id.hex()}-01"
    assert made.status.message == "invalid"


@pytest.mark.parametrize(
    ("wish", "environment", "answer"),
    [
        ("auto", {}, False),
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ("auto", {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_TRACES_EXPORTER": "none"}, False),
        ("on", {}, True),
        ("on", {"OTEL_SDK_DISABLED": "true"}, False),
        ("off", {"OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, False),
    ],
    ids=range(7),
)
def test_when_traces_are_asked_for(wish: Any, environment: dict[str, str], answer: bool) -> None:
    assert wanted(wish, environment) is answer


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that asks for nothing, without OpenTelemetry."""
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name in list(sys.modules):
        if name.split(".")[0] == "opentelemetry" or name == "services.runtime.tracing_otel":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delattr("services.runtime.tracing_otel")
    return monkeypatch


def test_who_asks_for_traces_and_lacks_opentelemetry_is_told_what_to_install(
    bare: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SettingsError, match=r"fleet.traces is on, but .*consonance\[traces\]"):
        start_tracing("router", "1", "on")


def test_an_environment_that_asks_for_traces_stops_no_fleet(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("OTEL_TRACES_EXPORTER", "otlp")
    stream = io.StringIO()
    logs.configure("router", "1", stream=stream)
    try:
        start_tracing("router", "1", "auto")()
    finally:
        structlog.reset_defaults()
    (line,) = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (line["event"], line["level"]) == ("not traced", "warning")
    assert "consonance[traces]" in line["why"]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "by otlp alone"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf is what is spoken"),
    ],
    ids=["exporter", "protocol"],
)
def test_what_is_not_spoken_is_said(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=why):
        start_tracing("router", "1", "on")


def test_who_does_not_ask_does_not_load_it(bare: pytest.MonkeyPatch) -> None:
    start_tracing("router", "1", "auto")()
    assert sys.modules["opentelemetry"] is None
