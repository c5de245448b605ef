"""The router's counters: how requests end, how long they take, of all clients together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus import Bus
from schemas import (
    EncodeAssigned,
    EncodeFailed,
    EncodeFinished,
    Event,
    FinishedToo,
    FleetHeartbeat,
    SkillListed,
)
from services.router.meter import MOST, OWN, Meter
from services.router.service import RouterService
from services.runtime.histogram import Buckets
from tests.services.encoder.processes import Processes, until
from tests.services.router.fleet import ask

CLIENT = "/client/1"


def test_the_last_minute_is_told_and_what_is_older_is_not() -> None:
    meter = Meter()
    meter.answered(CLIENT, 5, 0.9, now=100.0)
    for milliseconds in range(1, 101):
        meter.answered(CLIENT, 2, milliseconds / 1000, now=150.0)
    meter.failed(CLIENT, now=159.5)

    told = meter.counters(now=160.5)
    assert (told["answered"], told["failed"]) == (101, 1)
    assert (told["minute_requests"], told["minute_texts"], told["minute_failed"]) == (101, 200, 1)
    assert (told["p50_ms"], told["p95_ms"]) == (50.0, 95.0)

    later = meter.counters(now=300.0)
    assert (later["answered"], later["minute_requests"], later["p50_ms"]) == (101, 0, 0.0)
    buckets = Buckets.of(later, "latency_ms")
    assert buckets is not None
    assert buckets.total == 101


@pytest.mark.parametrize("name", OWN)
def test_what_the_fleet_asks_itself_is_counted_apart(name: str) -> None:
    """In bulk and patiently: it does not tell how long people wait."""
    meter = Meter()
    meter.answered(f"/{name}/1", 64, 9.0, now=1.0)
    meter.failed(f"/{name}/2", now=1.0)
    meter.answered(f"/somebody/{name}", 1, 0.05, now=1.0)
    told = meter.counters(now=1.0)
    assert (told["own"], told["answered"], told["failed"]) == (2, 1, 0)
    assert (told["minute_requests"], told["minute_texts"], told["p95_ms"]) == (1, 1, 50.0)


def test_what_is_remembered_is_bounded_and_what_is_counted_is_not() -> None:
    meter = Meter()
    for number in range(3 * MOST):
        meter.answered(CLIENT, 1, 0.001 * (number >= MOST), now=number * 30.0 / (3 * MOST))
    told = meter.counters(now=31.0)
    assert told["minute_requests"] == 3 * MOST
    assert told["p50_ms"] == 1.0


@asynccontextmanager
async def routed(folder: Path) -> AsyncIterator[tuple[RouterService, Bus, Bus, Any]]:
    """A router with one worker that is played, its bus and a client's."""
    processes = Processes(folder)
    try:
        router = await processes.start(RouterService)
        worker = await processes.bus("/encoder/1")
        client = await processes.bus("/client/1")
        failed = await processes.ear(EncodeFailed, to=client.address)
        beat = FleetHeartbeat(
            service="encoder", instance="1", pid=7, state="ready", queue=0, rss_bytes=1, counters={}
        )
        async with worker.watch(EncodeAssigned) as assigned:
            await worker.publish(Event(data=beat, source=worker.source))
            await until(lambda: len(router.dispatcher.workers) == 1, "the worker")
            yield router, worker, client, (assigned, failed)
    finally:
        await processes.aclose()


@pytest.mark.parametrize("together", [False, True], ids=["a word each", "one word for both"])
async def test_requests_count_when_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    # There is no manager here that lists skills by itself.
    monkeypatch.setattr("services.router.news.LIST_PATIENCE", 0.0)
    monkeypatch.setattr("services.router.service.SETUP_PATIENCE", 0.0)
    async with routed(tmp_path) as (router, worker, client, (assigned, failed)):
        await ask(client, "a", "b", id="good", route="base")
        await ask(client, "c", id="bad", route="base")
        listed = Event(data=SkillListed(cards=()), source="/manager/1", to=router.address)
        await worker.publish(listed)
        await ask(client, "d", id="unknown", route="named", skills=("nobody",))
        events = [await assigned.get(timeout=10) for _ in range(2)]
        assert all(event.data.several for event in events)
        why = {"good": None, "bad": "internal"}
        names = [event.data.request_id for event in events]
        words = [
            FinishedToo(assignment=event.id, request_id=name, failed=why[name])
            for event, name in zip(events, names, strict=True)
        ]
        unknown = FinishedToo(assignment="none of this router's", request_id="good")
        for event, word in zip(events, words, strict=True):
            data = EncodeFinished(
                request_id=word.request_id, worker="encoder-1", failed=word.failed
            )
            if together:  # and what is told twice, or is not known, changes nothing
                data = msgspec.structs.replace(data, also=(unknown, *words))
            await worker.publish(event.derive(data, source=worker.source, to=event.data.router))
            if together:
                break
        await failed.first(EncodeFailed)
        await until(lambda: router.counters.get("minute_requests") == 3, "the figures of a minute")

        told = router.counters
        assert (told["answered"], told["failed"], told["minute_failed"]) == (1, 2, 2)
        assert told["minute_texts"] == 2
        assert 0 < told["p50_ms"] == told["p95_ms"] < 10_000
        assert told["latency_ms_count"] == 1
