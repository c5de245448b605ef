"""`GET /metrics`: what Prometheus reads of the API and of the fleet behind it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from schemas import Event, FeedbackGiven
from services.api import metrics
from services.encoder.tally import Tally
from services.router.meter import Meter
from tests.services.api.kit import Door, card, opened
from tests.services.runtime.fleet_view_kit import beat

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path) as door:
        yield door


async def scraped(door: Door, holds: Callable[[Figures], object] = lambda it: True) -> Figures:
    """Every sample by name and labels, as soon as it is so."""
    async with asyncio.timeout(20):
        while True:
            answer = await door.client.get("/metrics")
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain; version=")
            found: Figures = {}
            for family in text_string_to_metric_families(answer.text):
                for sample in family.samples:
                    key = (sample.name, tuple(sorted(sample.labels.items())))
                    assert key not in found, "one figure, told once"
                    found[key] = sample.value
            if holds(found):
                return found
            await asyncio.sleep(0.01)


def labelled(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


async def test_requests_count_by_operation_model_and_status(door: Door) -> None:
    door.player.cards = [card("law")]
    await door.embed(model="law")
    await door.embed(model="law")
    await door.embed(model="nobody")
    await door.client.get("/nowhere")
    found = await scraped(door)

    embeddings = "consonance_http_embeddings_total"
    assert found[embeddings, labelled(model="law", status="200")] == 2
    assert found[embeddings, labelled(model="other", status="404")] == 1
    requests = "consonance_http_requests_total"
    assert found[requests, labelled(operation="embed", status="200")] == 2
    assert found[requests, labelled(operation="none", status="404")] == 1
    seconds = "consonance_http_request_seconds_count"
    assert found[seconds, labelled(operation="embed")] == 3


async def test_models_that_are_told_apart_are_bounded(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MODELS", 2)
    door.player.cards = [card(name) for name in ("a", "b", "c", "d")]
    for name in ("a", "b", "c", "d", "a"):
        await door.embed(model=name)
    found = await scraped(door)
    models = {
        dict(labels)["model"]: value
        for (name, labels), value in found.items()
        if name == "consonance_http_embeddings_total"
    }
    assert models == {"a": 2, "b": 1, "other": 2}


async def test_heartbeats_become_figures_of_the_fleet(door: Door) -> None:
    meter, tally = Meter(), Tally()
    meter.answered("/client/1", 2, 0.03, now=1.0)
    meter.failed("/client/1", now=1.0)
    tally.batch(3)
    tally.placed("sha256:0123456789ab", 9)
    encoder = {"tokens": 50, "batches": 1, "cards": 1, "rows:law": 7, **tally.counters()}
    factory = {"published": 2, "rejected": 3, "head_running": 1, "body_running": 0}
    for data in (
        beat("router", counters=meter.counters(1.0), queue=4),
        beat("encoder", "1", counters=encoder),
        beat("encoder", "2", counters=encoder, state="starting"),
        beat("dissonance_monitor", counters={"open:law": 11, "judged:law": 40, "clashes:law": 27}),
        beat("factory", counters=factory),
        beat("adapter_manager", counters={"installed": 1, "kept": 2}),
        beat("broker", counters={"journal_bytes": 4096}, heads={"feedback.given": 12}),
    ):
        await door.player.bus.publish(Event(data=data, source="/test/1"))
    found = await scraped(door, lambda it: it["consonance_journal_sequence", ()] == 12)

    router = labelled(service="router", instance="1")
    assert found["consonance_up", router] == 1
    assert found["consonance_up", labelled(service="encoder", instance="2")] == 0
    assert (found["consonance_queue", router], found["consonance_resident_bytes", router]) == (4, 5)
    assert found["consonance_requests_total", labelled(outcome="answered")] == 1
    assert found["consonance_requests_total", labelled(outcome="failed")] == 1
    assert found["consonance_request_seconds_count", ()] == 1
    assert found["consonance_request_seconds_sum", ()] == pytest.approx(0.03)
    assert found["consonance_request_seconds_bucket", labelled(le="0.02")] == 0
    assert found["consonance_request_seconds_bucket", labelled(le="0.05")] == 1
    assert found["consonance_batch_rows_bucket", labelled(le="4.0", instance="2")] == 1
    assert found["consonance_tokens_total", labelled(instance="1")] == 50
    assert found["consonance_skill_rows_total", labelled(skill="law", instance="1")] == 7
    assert found["consonance_open_clashes", labelled(domain="law")] == 11
    assert found["consonance_judged_feedback_total", labelled(domain="law")] == 40
    assert found["consonance_gate_verdicts_total", labelled(verdict="published")] == 2
    assert found["consonance_gate_verdicts_total", labelled(verdict="rejected")] == 3
    assert found["consonance_trainings", labelled(depth="head")] == 1
    assert found["consonance_skill_versions", labelled(state="kept")] == 2
    assert found["consonance_journal_bytes", ()] == 4096


async def test_it_is_spoken_in_openmetrics_where_that_is_asked_for(door: Door) -> None:
    answer = await door.client.get(
        "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics(answer.text)}
    assert {"consonance_http_requests", "consonance_up"} <= names


async def test_the_journal_moves_with_what_is_said(door: Door) -> None:
    data = FeedbackGiven(query="q", relevant=("a",))
    await door.player.bus.publish(*(Event(data=data, source="/test/1") for _ in range(3)))
    await door.player.bus.publish(
        Event(data=beat("broker", heads={"feedback.given": 3}), source="/broker/1")
    )
    await scraped(door, lambda it: it["consonance_journal_sequence", ()] == 3)


@pytest.mark.parametrize("accept", ["application/openmetrics-text;version=abc", "\xff", ";=,"])
async def test_a_format_that_is_none_is_answered_in_the_usual_one(door: Door, accept: str) -> None:
    headers = {"Accept": accept.encode("latin-1")}
    answer = await door.client.get("/metrics", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
