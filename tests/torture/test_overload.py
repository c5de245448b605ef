"""The short form of the overload: the queues in simulated time, and a small fleet in a flood."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from statistics import median

import pytest

from bus import Bus, connect
from schemas import (
    EncodeAssigned,
    EncodeCompleted,
    EncodeFailed,
    EncodeFinished,
    EncodeRequested,
    Event,
    FleetHeartbeat,
    now,
)
from services.encoder.batcher import Batcher, Job
from services.router.admission import Limits
from services.router.service import RouterService
from tests.services.encoder.processes import Processes, settings, until
from tests.torture.overload.crowd import Asked, Shape
from tests.torture.overload.promises import FAIR, medians, shares
from tests.torture.overload.simulated import Simulated

QUERY = Shape("query")
PACE = 3000.0
"""Tokens a second: 250 queries."""


def flooded(
    seed: int, *, greedy: float = 100.0, clients: int = 200, seconds: float = 20.0
) -> Simulated:
    """Ten times what can be served, from so many clients, one of which asks `greedy` times as
    much as any other."""
    simulated = Simulated(PACE / 5)
    weights = [greedy] + [1.0] * (clients - 1)
    simulated.flood(10 * PACE / 5 / 12, seconds, weights, QUERY, Random(seed), deadline=30.0)
    return simulated


@pytest.mark.parametrize("seed", range(2))
def test_everybody_is_served_alike_whoever_asks_the_most(seed: int) -> None:
    found = flooded(seed)
    by = medians(found.asked)
    typical = median(by.values())
    assert max(by.values()) <= FAIR * typical
    got = shares(found.asked, 200)
    assert got[0] <= 3 * median(got)
    assert min(got) >= 1


def test_all_are_told_and_those_refused_when_to_come_again() -> None:
    found = flooded(2)
    codes = Counter(it.code for it in found.asked)
    assert set(codes) <= {"completed", "overloaded", "deadline"}
    assert codes["overloaded"] > codes["completed"] > 0
    assert codes["deadline"] <= 0.02 * codes["completed"], "who is let in is served"
    assert all(it.retry_after_ms for it in found.asked if it.code == "overloaded")
    assert all(it.done is not None and it.done <= it.until + 1.0 for it in found.asked)


def test_the_queue_is_no_longer_than_can_be_served_soon() -> None:
    found = flooded(3, greedy=1.0)
    assert found.most * 12 / found.pace <= 6.0
    served = [it.seconds for it in found.asked if it.code == "completed"]
    assert max(served) <= 7.5


def test_who_asks_for_much_and_comes_again_when_told_gets_its_share() -> None:
    simulated = Simulated(PACE / 5)
    bulk = Shape("16 texts", texts=16)
    patient = [Asked(50 + number, bulk, 5.0 + number, 65.0 + number) for number in range(5)]
    rate = 10 * PACE / 5 / 12
    simulated.flood(rate, 45.0, [1.0] * 50, QUERY, Random(8), deadline=30.0, patient=patient)
    assert {it.code for it in patient} == {"completed"}
    served = [it.seconds for it in simulated.asked if it.code == "completed"]
    assert max(served) <= 7.5, "nobody waits longer for it"
    assert all(it.code in ("completed", "overloaded") for it in simulated.asked)


def test_without_an_overload_nobody_is_refused() -> None:
    simulated = Simulated(PACE)
    simulated.flood(0.8 * PACE / 12, 10.0, [1.0] * 100, QUERY, Random(4), deadline=30.0)
    assert {it.code for it in simulated.asked} == {"completed"}


def test_when_the_flood_ends_a_lone_request_is_served_at_once() -> None:
    simulated = flooded(5, seconds=10.0)
    asked = len(simulated.asked)
    last = max(it.done or 0.0 for it in simulated.asked)
    assert last <= 10.0 + 6.0, "what was let in is served soon"
    simulated.flood(1.0, 20.0, [1.0], QUERY, Random(6), deadline=30.0, since=last)
    assert all(it.seconds <= 0.05 for it in simulated.asked[asked:])


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    await processes.aclose()


async def test_a_router_in_a_flood_answers_or_refuses_all_of_it(processes: Processes) -> None:
    limits = Limits(texts=8192, seconds=0.5)
    chosen = settings(router={"max_wait": limits.seconds})
    router = await processes.start(RouterService, settings=chosen)
    worker = await processes.bus("/encoder/7")
    serving = asyncio.create_task(encoder(worker, 20_000.0, limits.seconds))
    await until(lambda: router.dispatcher.workers.pace > 0, "the encoder")
    client = await connect(processes.url, source="/crowd/1")
    codes: dict[str, str] = {}
    refused: list[int | None] = []
    async with client, client.watch((EncodeCompleted, EncodeFailed), buffer=100_000) as answers:
        random = Random(7)
        for number in range(1500):
            source = "/greedy" if random.random() < 0.5 else f"/crowd/{number % 100}"
            data = EncodeRequested(texts=(f"text {number} " * 4,), reply_to="crowd-1", route="base")
            await client.publish(Event(data=data, source=source, id=f"{source}:{number}"))
        while len(codes) < 1500:
            data = (await answers.get(timeout=20.0)).data
            failed = isinstance(data, EncodeFailed)
            codes[data.request_id] = data.code if failed else "completed"
            if failed:
                refused.append(data.retry_after_ms)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)

    found = Counter(codes.values())
    assert set(found) == {"completed", "overloaded"}
    assert all(refused)
    greedy = sum(code == "completed" and id.startswith("/greedy") for id, code in codes.items())
    assert greedy <= found["completed"] / 2, "half of the requests, and not more of the answers"
    assert len(router.dispatcher.books) == 0


async def encoder(bus: Bus, pace: float, patience: float) -> None:
    """A worker that computes nothing, but takes its time for it."""
    beat = FleetHeartbeat(
        service="encoder",
        instance="7",
        pid=7,
        state="ready",
        queue=0,
        rss_bytes=1,
        counters={"pace": pace},
    )
    batcher = Batcher(1024, patience)
    loop = asyncio.get_running_loop()
    async with bus.watch(EncodeAssigned, buffer=100_000) as work:
        said = 0.0
        while True:
            if loop.time() > said + 1.0:
                said = loop.time()
                await bus.publish(Event(data=beat, source=bus.source))
            events = []
            try:
                while True:
                    events.append(await work.get(timeout=0.001 if len(batcher) else 0.05))
            except TimeoutError:
                pass
            for event in events:
                batcher.add(Job(event, ((),), (14,), loop.time()))
            batch = batcher.take(now(), loop.time())
            await asyncio.sleep(14 * len(batch.rows) / pace)
            for job in (*batch.stuck, *batch.jobs):
                data = job.data
                answer: EncodeCompleted | EncodeFailed = EncodeCompleted(
                    request_id=data.request_id,
                    model="none",
                    dim=1,
                    rows=(),
                    tokens=14,
                    queue_ms=0.0,
                    compute_ms=0.0,
                    attachments=(),
                )
                if job in batch.stuck:
                    answer = EncodeFailed(
                        request_id=data.request_id,
                        code="overloaded",
                        message="",
                        retry_after_ms=500,
                    )
                finished = EncodeFinished(request_id=data.request_id, worker="encoder-7")
                await bus.publish(
                    job.event.derive(answer, source=bus.source, to=data.reply_to),
                    job.event.derive(finished, source=bus.source, to=data.router),
                )
