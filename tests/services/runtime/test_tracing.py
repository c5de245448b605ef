"""What follows an event through the processes: its ids on everything, and spans where asked for."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx
import msgspec
import numpy as np
import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from bus import MemoryBus
from schemas import (
    EncodeRequested,
    Event,
    FeedbackGiven,
    FleetHeartbeat,
    LearningBatchRejected,
    SkillInstalled,
    SkillPublished,
)
from services.api.service import ApiService
from services.runtime import logs
from services.runtime.cards import describe
from services.runtime.client import FleetClient
from services.runtime.service import Context, Service
from services.runtime.settings import Settings
from services.runtime.state import StateFolder
from services.runtime.tracing import (
    NOTHING,
    Origin,
    begin,
    following,
    here,
    parent_of,
    record,
    span,
    trace_with,
    under,
)
from services.runtime.tracing_otel import OtelTracer
from tests.services.encoder import processes
from tests.services.encoder.processes import DIM, MINILM, skill, until
from tests.services.router.fleet import Fleet

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """This process traces, into a list."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace_with(OtelTracer(provider))
    yield exporter
    trace_with(None)
    provider.shutdown()


class Words:
    """Stands for the model, which takes seconds to load: equal texts have equal vectors."""

    dim = DIM
    base_model = MINILM

    def tokenize(self, texts: Sequence[str], *, role: str = "query") -> list[list[int]]:
        return [[len(word) for word in text.split()] for text in texts]

    def encode_rows(self, texts: Sequence[str], rows: Any, **_: Any) -> np.ndarray:
        return np.stack([np.full(DIM, 1 + len(text), np.float32) for text in texts])

    @property
    def manager(self) -> Words:
        return self

    def prepare(self, card: Any) -> None:
        """Any card does."""


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    """Router, manager and an encoder."""
    monkeypatch.setattr(processes, "engine", lambda number: Words())
    fleet = Fleet(tmp_path)
    yield await fleet.up(workers=1)
    await fleet.aclose()


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = (one for one in exporter.get_finished_spans() if one.name == name)
    return found


def names(exporter: InMemorySpanExporter) -> set[str]:
    return {one.name for one in exporter.get_finished_spans()}


def trace_of(one: ReadableSpan) -> str:
    return f"{one.context.trace_id:032x}"


def above(one: ReadableSpan) -> str:
    return "" if one.parent is None else f"{one.parent.span_id:016x}"


def own(one: ReadableSpan) -> str:
    return f"{one.context.span_id:016x}"


# -- what belongs to what


class Echo(Service):
    """Rejects every batch it hears of, and says so in its log."""

    name: ClassVar[str] = "echo"

    async def setup(self) -> None:
        await self.listen((FeedbackGiven, FleetHeartbeat), self._answer)

    async def _answer(self, event: Event[Any]) -> None:
        self.log.info("heard")
        await self.say(LearningBatchRejected(batch_id="b", reason=event.type))
        await asyncio.create_task(self._later())

    async def _later(self) -> None:
        await FleetClient(self.bus).feedback("of a task of its own", ["p"])


@pytest.fixture
async def echo(tmp_path: Path) -> AsyncIterator[tuple[Echo, MemoryBus]]:
    name = tmp_path.name
    async with (
        MemoryBus(name, source="/client/1") as client,
        MemoryBus(name, source="/echo/1") as bus,
    ):
        service = Echo(Context(Settings(), bus, StateFolder(tmp_path)))
        await service.setup()
        yield service, client
        await service.aclose()


async def test_what_comes_of_an_event_names_it_and_bears_what_it_belongs_to(
    echo: tuple[Echo, MemoryBus],
) -> None:
    _, client = echo
    root = Event(
        data=FeedbackGiven(query="q", relevant=("p",)), source="/client/1", traceparent=GIVEN
    )
    async with client.watch((LearningBatchRejected, FeedbackGiven)) as events:
        await client.publish(root)
        heard = [await events.get(timeout=10) for _ in range(3)]

    for event in heard[1:]:
        assert event.causation_id == root.id
        assert event.correlation_id == root.id
        assert event.traceparent == GIVEN, "handed on, though nobody traces here"
    assert here() == Origin(), "nothing of it is left behind"


async def test_heartbeats_lead_to_nothing(echo: tuple[Echo, MemoryBus]) -> None:
    _, client = echo
    beat = FleetHeartbeat(
        service="router", instance="1", pid=1, state="ready", queue=0, rss_bytes=1, counters={}
    )
    async with client.watch(LearningBatchRejected) as events:
        await client.publish(Event(data=beat, source="/router/1"))
        said = await events.get(timeout=10)
    assert (said.causation_id, said.correlation_id) == (None, None)


def test_lines_of_a_log_bear_what_they_belong_to() -> None:
    stream = io.StringIO()
    logs.configure("router", "1", stream=stream)
    event = Event(
        data=FeedbackGiven(query="q", relevant=("p",)),
        source="/client/1",
        correlation_id="batch-7",
        traceparent=GIVEN,
    )
    try:
        with following(event):
            structlog.get_logger().info("inside")
        structlog.get_logger().info("outside")
    finally:
        structlog.reset_defaults()
    inside, outside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (inside["correlationid"], inside["traceid"]) == ("batch-7", TRACE)
    assert not {"correlationid", "traceid"} & outside.keys()


@pytest.mark.parametrize(
    ("header", "known"),
    [
        (GIVEN, GIVEN),
        (f"cc-{TRACE}-{PARENT}-01-what-is-yet-to-come", GIVEN),
        (None, None),
        ("", None),
        (f"{GIVEN}-more", None),
        (f"{GIVEN}\n", None),
        (GIVEN.upper(), None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE}-{PARENT}", None),
        ("x" * 100_000, None),
    ],
    ids=range(12),
)
def test_a_traceparent_is_read_as_the_recommendation_has_it(
    header: str | None, known: str | None
) -> None:
    assert parent_of(header) == known


# -- spans


def test_without_a_tracer_nothing_is_made_and_all_is_handed_on() -> None:
    event = Event(data=FeedbackGiven(query="q", relevant=()), source="/c/1", traceparent=GIVEN)
    assert begin("a", GIVEN) is NOTHING
    with following(event), span("a", fact=1) as made:
        assert made is NOTHING
        assert here().traceparent == GIVEN
        assert under(event) is event
    record("a", GIVEN, 1.0)


def test_spans_lie_in_each_other_and_end_with_an_error_s_name(spans: InMemorySpanExporter) -> None:
    event = Event(data=FeedbackGiven(query="q", relevant=()), source="/c/1", traceparent=GIVEN)
    with (
        following(event),
        span("outer", links=[GIVEN, "nonsense", None, f"00-{PARENT * 2}-{PARENT}-01"]),
    ):
        derived = under(event).derive(LearningBatchRejected(batch_id="b", reason=""), source="/c/1")
        with pytest.raises(KeyError), span("inner", skill="bank", none=None):
            raise KeyError("what a user asked")
    record("later", GIVEN, 10.0, 12.5)

    outer, inner, later = (named(spans, name) for name in ("outer", "inner", "later"))
    assert {trace_of(one) for one in (outer, inner, later)} == {TRACE}
    assert (above(outer), above(inner), above(later)) == (PARENT, own(outer), PARENT)
    assert derived.traceparent == f"00-{TRACE}-{own(outer)}-01"
    assert [f"{link.context.trace_id:032x}" for link in outer.links] == [PARENT * 2]
    assert dict(inner.attributes or {}) == {"consonance.skill": "bank"}
    assert "asked" not in inner.to_json()
    assert "KeyError" in inner.to_json()
    assert ((later.end_time or 0) - (later.start_time or 0)) / 1e9 == 2.5


def test_a_traceparent_that_is_none_begins_a_trace(spans: InMemorySpanExporter) -> None:
    begin("root", "00-nonsense").end()
    assert named(spans, "root").parent is None


def test_what_is_not_sampled_is_handed_on_as_such() -> None:
    trace_with(OtelTracer(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)))
    try:
        made = begin("a", GIVEN)
    finally:
        trace_with(None)
    assert made.traceparent is not None
    assert (made.traceparent[:35], made.traceparent[-3:]) == (GIVEN[:35], "-00")


async def test_one_request_is_one_trace_from_the_header_to_the_pass(
    fleet: Fleet, spans: InMemorySpanExporter
) -> None:
    asked = await fleet.ear(EncodeRequested)
    port = msgspec.structs.replace(Settings().api, port=0)
    api = await fleet.start(ApiService, settings=msgspec.structs.replace(Settings(), api=port))
    async with httpx.AsyncClient(base_url=api.url, timeout=20) as client:
        answer = await client.post(
            "/v1/embeddings",
            json={"model": "base", "input": ["a secret of mine"]},
            headers={"traceparent": GIVEN},
        )
    assert answer.status_code == 200, answer.text
    event = await asked.first(EncodeRequested)
    await api.drain()
    await until(lambda: "router request" in names(spans), "the word that it is finished")

    entry = named(spans, "api POST /v1/embeddings")
    request, queue, done = (
        named(spans, name) for name in ("router request", "encoder queue", "encoder pass")
    )
    assert {trace_of(one) for one in (entry, request, queue, done)} == {TRACE}
    assert (above(entry), above(request)) == (PARENT, own(entry))
    assert (above(queue), above(done)) == (own(request), own(request))
    assert event.correlation_id == answer.headers["x-request-id"]
    assert all("secret" not in one.to_json() for one in spans.get_finished_spans())


async def test_a_card_is_installed_within_the_trace_it_was_published_in(
    fleet: Fleet, spans: InMemorySpanExporter
) -> None:
    ear = await fleet.ear(SkillInstalled)
    card = describe(fleet.store.put(skill("bank")))
    published = Event(
        data=SkillPublished(card=card, origin="test"),
        source="/factory/1",
        correlation_id="batch-7",
        traceparent=GIVEN,
    )
    await (await fleet.bus("/factory/1")).publish(published)
    installed = await ear.first(SkillInstalled)
    await until(lambda: "manager install" in names(spans), "the end of it")

    install, mapped = named(spans, "manager install"), named(spans, "encoder map card")
    assert (above(install), above(mapped)) == (PARENT, own(install))
    assert installed.traceparent == f"00-{TRACE}-{own(install)}-01"
    assert installed.correlation_id == "batch-7"
