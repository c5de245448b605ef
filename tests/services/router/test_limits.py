"""Requests and lists at the edges of what the wire allows: each gets its word."""

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas import (
    EncodeAssigned,
    EncodeFailed,
    EncodeFinished,
    EncodeRequested,
    Event,
    FinishedToo,
    FleetHeartbeat,
)
from services.adapter_manager import service as manager_module
from services.adapter_manager.service import AdapterManagerService
from services.router.service import RouterService
from services.runtime.cards import describe
from tests.services.encoder.processes import skill
from tests.services.router.fleet import Fleet, ask

BEAT = FleetHeartbeat(
    service="encoder", instance="9", pid=9, state="ready", queue=0, rss_bytes=1, counters={}
)
"""Of a worker that the test itself plays."""


async def test_a_deadline_beyond_all_time_is_no_reason_for_silence(fleet: Fleet) -> None:
    await fleet.start(AdapterManagerService)
    await fleet.start(RouterService)
    bus = await fleet.bus("/client/1")
    async with bus.watch(EncodeFailed) as answers:
        await ask(bus, "a", id="far", route="named", skills=("law",), deadline_ms=10**18)
        far = (await answers.get(timeout=10)).data

        last: Event[EncodeRequested] = Event(
            data=EncodeRequested(texts=("a",), reply_to=bus.address),
            source=bus.source,
            id="last",
            time=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        )
        await bus.publish(last)
        late = (await answers.get(timeout=10)).data

    assert (far.request_id, far.code) == ("far", "unknown_skill")
    assert (late.request_id, late.code) == ("last", "invalid")
    assert "9999" in late.message


async def test_what_is_named_waits_for_all_parts_of_the_list(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "PART", 2000)
    manager = await fleet.start(AdapterManagerService)
    for number in range(8):
        card = describe(fleet.store.put(skill(f"skill-{number}", seed=number)))
        manager.ledger.put(card, "installed")

    router = await fleet.start(RouterService)

    assert len(manager.parts()) > 1
    assert router.news.listed.is_set()
    assert len(router.skills.directory) == 8, "it says ready when it knows all of them"


async def test_a_late_request_is_told_once_whether_worker_or_clock_is_first(fleet: Fleet) -> None:
    await fleet.start(AdapterManagerService)
    await fleet.start(RouterService)
    bus = await fleet.bus("/client/1")
    worker = await fleet.bus("/encoder/9")

    async def give_up(assigned: Event[Any]) -> None:
        data = EncodeFinished(
            request_id=assigned.data.request_id, worker="encoder-9", failed="deadline"
        )
        said = assigned.derive(data, source=worker.source, to=assigned.data.router)
        await worker.publish(said)

    async with bus.watch(EncodeFailed) as answers, worker.watch(EncodeAssigned) as work:
        await worker.publish(Event(data=BEAT, source=worker.source))
        # Given: the worker finds it late before the router's clock does.
        await ask(bus, "a", id="worker", route="base", deadline_ms=60_000)
        await give_up(await work.get(timeout=10))
        first = (await answers.get(timeout=10)).data
        # And: the clock is first, the worker's word comes after.
        await ask(bus, "a", id="clock", route="base", deadline_ms=300)
        assigned = await work.get(timeout=10)
        second = (await answers.get(timeout=10)).data
        await give_up(assigned)
        # Then: what comes next is the answer to the next request.
        await ask(bus, "a", id="next", route="named", skills=("law",))
        third = (await answers.get(timeout=10)).data

    told = [(each.request_id, each.code) for each in (first, second, third)]
    assert told == [("worker", "deadline"), ("clock", "deadline"), ("next", "unknown_skill")]


async def test_who_was_late_is_told_whichever_place_of_a_word_says_so(fleet: Fleet) -> None:
    await fleet.start(AdapterManagerService)
    router = await fleet.start(RouterService)
    bus = await fleet.bus("/client/1")
    worker = await fleet.bus("/encoder/9")
    async with bus.watch(EncodeFailed) as answers, worker.watch(EncodeAssigned) as work:
        await worker.publish(Event(data=BEAT, source=worker.source))
        given = []
        for name in ("first", "second", "third"):
            await ask(bus, "a", id=name, route="base", deadline_ms=60_000)
            given.append(await work.get(timeout=10))
        first, *others = given
        also = tuple(
            FinishedToo(assignment=each.id, request_id=each.data.request_id, failed="deadline")
            for each in others
        )
        word = EncodeFinished(request_id="first", worker="encoder-9", also=also)
        await worker.publish(first.derive(word, source=worker.source, to=router.address))
        told = [(await answers.get(timeout=10)).data for _ in others]

    assert {(each.request_id, each.code) for each in told} == {
        ("second", "deadline"),
        ("third", "deadline"),
    }
    assert not len(router.dispatcher.books)


async def test_a_passed_deadline_says_what_was_waited_for(fleet: Fleet) -> None:
    await fleet.start(AdapterManagerService)
    await fleet.start(RouterService)
    bus = await fleet.bus("/client/1")
    deaf = await fleet.bus("/encoder/9")
    async with bus.watch(EncodeFailed) as answers:
        await ask(bus, "a", id="nobody", route="base", deadline_ms=300)
        nobody = (await answers.get(timeout=10)).data
        await deaf.publish(Event(data=BEAT, source=deaf.source))
        await ask(bus, "a", id="deaf", route="base", deadline_ms=300)
        unanswered = (await answers.get(timeout=10)).data

    assert (nobody.code, unanswered.code) == ("deadline", "deadline")
    assert nobody.message.endswith("waited for a worker")
    assert unanswered.message.endswith("waited for its worker")
