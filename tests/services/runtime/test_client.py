"""The client of the fleet: what it asks comes whole, what it is told is passed on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus import Bus, RequestTimeout
from schemas import (
    EncodeRequested,
    Event,
    FleetHeartbeat,
    InvalidData,
    SkillDiscovered,
    SkillListed,
    SkillListRequested,
)
from services.adapter_manager import service as manager_module
from services.adapter_manager.service import AdapterManagerService
from services.errors import EncodeFailedError, NotFederatingError, NotLearningError
from services.runtime.cards import describe
from tests.services.encoder.processes import Processes, skill


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    await processes.aclose()


async def test_a_list_of_several_parts_comes_whole(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "PART", 2000)
    manager = await processes.start(AdapterManagerService)
    for number in range(5):
        card = describe(processes.store.put(skill(f"skill-{number}", seed=number)))
        manager.ledger.put(card, "installed")
    assert len(manager.parts()) > 1
    client = await processes.client()

    listed = await client.skills()

    assert sorted(card.name for card in listed) == [f"skill-{number}" for number in range(5)]


async def test_a_part_that_was_lost_is_asked_for_again(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.client.RESEND", 0.05)
    manager = await processes.bus("/adapter_manager/1")
    client = await processes.client()
    asked: list[str] = []

    async def answer() -> None:
        async with manager.watch(SkillListRequested) as questions:
            live.set_result(None)
            async for question in questions:
                asked.append(question.id)
                for part in (0, 1):
                    if part == 1 and len(asked) == 1:
                        continue
                    listed = SkillListed(cards=(), part=part, parts=2)
                    await manager.publish(
                        question.derive(listed, source=manager.source, to=question.data.reply_to)
                    )

    live = asyncio.get_running_loop().create_future()
    answering = asyncio.create_task(answer())
    await live

    assert await client.skills() == ()

    answering.cancel()
    assert len(set(asked)) >= 2


async def test_nobody_who_lists_is_an_error_in_time(processes: Processes) -> None:
    client = await processes.client()
    with pytest.raises(RequestTimeout, match=r"did not list its skills within 0\.1 s"):
        await client.skills(timeout=0.1)


async def test_long_texts_travel_in_requests_that_fit_into_an_event(processes: Processes) -> None:
    texts = ["é" * 30_000] * 40 + ["short"] * 70
    bus = await processes.bus("/ear/1")
    client = await processes.client(in_flight=100)
    async with bus.watch(EncodeRequested) as heard:
        asking = asyncio.create_task(client.encode(texts, deadline_ms=500))
        told: list[str] = []
        while len(told) < len(texts):
            event = await heard.get(timeout=10)
            assert len(msgspec.json.encode(event.data)) < 1 << 20
            assert len(event.data.texts) <= 64
            told += event.data.texts
        with pytest.raises(RequestTimeout):
            await asking
    assert sorted(told) == sorted(texts)


def beat(service: str, state: str = "ready") -> Event[FleetHeartbeat]:
    data = FleetHeartbeat(
        service=service, instance="1", pid=1, state=state, queue=0, rss_bytes=1, counters={}
    )
    return Event(data=data, source=f"/{service}/1")


async def test_evolution_is_on_once_all_who_learn_are_ready(processes: Processes) -> None:
    fleet = await processes.bus("/fleet/1")
    client = await processes.client()
    waiting = asyncio.create_task(client.enable_evolution(timeout=10))

    while not waiting.done():
        for service in ("dissonance_monitor", "distiller", "factory"):
            await fleet.publish(beat(service))
        await asyncio.sleep(0.01)

    await waiting


async def test_evolution_names_who_is_missing_and_who_is_not_ready(processes: Processes) -> None:
    fleet = await processes.bus("/fleet/1")
    client = await processes.client()
    waiting = asyncio.create_task(client.enable_evolution(timeout=0.5))

    while not waiting.done():
        await fleet.publish(beat("dissonance_monitor"), beat("distiller", "starting"))
        await asyncio.sleep(0.01)

    with pytest.raises(
        NotLearningError, match=r"distiller \(starting\) and factory \(not running\)"
    ):
        await waiting


def gateway(**counters: int) -> Event[FleetHeartbeat]:
    return replaced(beat("federation"), counters=counters)


def replaced(event: Event[FleetHeartbeat], **changes: object) -> Event[FleetHeartbeat]:
    data = msgspec.structs.replace(event.data, **changes)
    return Event(data=data, source=event.source)


async def saying(fleet: Bus, waiting: asyncio.Task[object], *events: Event[Any]) -> None:
    while not waiting.done():
        await fleet.publish(*(Event(data=event.data, source=event.source) for event in events))
        await asyncio.sleep(0.01)


async def test_federation_is_on_once_the_gateway_says_so(processes: Processes) -> None:
    fleet = await processes.bus("/fleet/1")
    client = await processes.client()
    waiting = asyncio.create_task(client.start_federation(timeout=10))

    await saying(fleet, waiting, beat("factory"), gateway(federating=1, port=4711))

    assert await waiting == 4711


@pytest.mark.parametrize(
    ("port", "heard", "why"),
    [
        (None, beat("router"), "it does not run"),
        (None, gateway(federating=0), "its log says why"),
        (99, gateway(federating=1, port=4711), "listens on port 4711, not 99: set federation.port"),
    ],
)
async def test_where_a_fleet_does_not_federate_it_says_why(
    processes: Processes, port: int | None, heard: Event[FleetHeartbeat], why: str
) -> None:
    fleet = await processes.bus("/fleet/1")
    client = await processes.client()
    waiting = asyncio.create_task(client.start_federation(port, timeout=0.5))

    await saying(fleet, waiting, heard)

    with pytest.raises(NotFederatingError, match=why):
        await waiting


async def test_what_peers_offer_is_told_once_the_gateway_has_repeated_it(
    processes: Processes,
) -> None:
    fleet = await processes.bus("/fleet/1")
    client = await processes.client()
    waiting = asyncio.create_task(client.sync_remote_skills(timeout=10))
    card = describe(processes.store.put(skill("routing", seed=1)))
    offers = [
        Event(data=SkillDiscovered(card=card, peer=peer), source="/federation/1")
        for peer in ("oslo", "rome")
    ]

    await saying(fleet, waiting, *offers, gateway(federating=1, port=1, offers=2))

    assert {offer.peer for offer in await waiting} == {"oslo", "rome"}


@pytest.mark.parametrize(
    ("texts", "intent", "which"),
    [(("a", "b \ud800"), None, "text 1"), (("a",), "\udfff", "the intent")],
)
async def test_what_is_no_unicode_is_refused_before_it_is_sent(
    processes: Processes, texts: tuple[str, ...], intent: str | None, which: str
) -> None:
    client = await processes.client()
    with pytest.raises(EncodeFailedError, match=f"{which} holds half of a surrogate") as failed:
        await client.encode(texts, intent=intent)
    assert failed.value.code == "invalid"
    with pytest.raises(InvalidData, match="half of a surrogate pair"):
        await client.feedback("a query", texts, [intent or "\udc00"])
