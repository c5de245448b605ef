"""The manager: verified, loaded once, told once; versions never roll back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from lora.card import BaseModel
from lora.store import CardStore
from schemas import (
    AdapterFailed,
    AdapterLoad,
    AdapterLoaded,
    AdapterUnload,
    Event,
    FleetHeartbeat,
    SkillFetched,
    SkillInstalled,
    SkillRejected,
    SkillRetire,
    SkillRetired,
)
from services.adapter_manager.errors import ManagerError
from services.adapter_manager.service import AdapterManagerService
from services.runtime.cards import describe
from tests.services.encoder.processes import Ear, Processes, settings, skill, until


class Encoder:
    """Answers `adapter.load` as it is told to, without any model."""

    def __init__(self, processes: Processes, instance: str = "1") -> None:
        self.processes = processes
        self.source = f"/encoder/{instance}"
        self.asked: list[str] = []
        self.unloaded: list[str] = []
        self.failing: str | None = None
        self.deaf = False
        self.counters: dict[str, int | float] = {}

    async def start(self) -> "Encoder":
        bus = await self.processes.bus(self.source)
        live = asyncio.get_running_loop().create_future()

        async def serve() -> None:
            async with bus.watch((AdapterLoad, AdapterUnload)) as events:
                live.set_result(None)
                async for event in events:
                    if isinstance(event.data, AdapterUnload):
                        self.unloaded.append(event.data.digest)
                        continue
                    self.asked.append(event.data.digest)
                    if self.deaf:
                        continue
                    kind = AdapterFailed if self.failing else AdapterLoaded
                    report = kind(
                        worker=bus.address,
                        digest=event.data.digest,
                        milliseconds=1.0,
                        bytes=1,
                        message=self.failing,
                    )
                    await bus.publish(event.derive(report, source=self.source))

        async def beat() -> None:
            while True:
                data = FleetHeartbeat(
                    service="encoder",
                    instance=self.source[-1],
                    pid=7,
                    state="ready",
                    queue=0,
                    rss_bytes=1,
                    counters=dict(self.counters),
                )
                await bus.publish(Event(data=data, source=self.source))
                await asyncio.sleep(0.05)

        ear = Ear()
        ear.task = asyncio.create_task(serve())
        self.processes._ears.append(ear)
        await live
        pulse = Ear()
        pulse.task = asyncio.create_task(beat())
        self.processes._ears.append(pulse)
        return self


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    await processes.aclose()


async def told(processes: Processes) -> Ear:
    return await processes.ear(SkillInstalled, SkillRejected, SkillRetired)


async def retire(processes: Processes, digest: str, version: int) -> Event[SkillRetire]:
    event: Event[SkillRetire] = Event(
        data=SkillRetire(name="law", version=version, digest=digest, reason="worse"),
        source="/factory/1",
    )
    bus = await processes.bus("/factory/1")
    await bus.publish(event)
    return event


async def states(manager: AdapterManagerService) -> dict[int, str]:
    return {card.version: card.state for card in manager.listed()}


async def test_a_published_card_is_installed_once_an_encoder_has_loaded_it(
    processes: Processes,
) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    first = await Encoder(processes, "1").start()
    second = await Encoder(processes, "2").start()
    await until(lambda: len(manager.loader.alive()) == 2, "two encoders")

    event = await processes.publish(skill("law"))

    installed = await ear.first(SkillInstalled)
    assert installed.data.card == event.data.card
    assert installed.causation_id == event.id
    await until(lambda: bool(first.asked and second.asked), "the hint to the other encoder")
    client = await processes.client()
    (listed,) = await client.skills()
    assert (listed.name, listed.version, listed.state) == ("law", 1, "installed")


async def test_it_waits_for_an_encoder(processes: Processes) -> None:
    ear = await told(processes)
    await processes.start(AdapterManagerService)
    await processes.publish(skill("law"))
    await asyncio.sleep(0.2)
    assert not ear.events
    await Encoder(processes).start()
    await ear.first(SkillInstalled)


async def test_an_encoder_that_does_not_answer_is_asked_again(processes: Processes) -> None:
    ear = await told(processes)
    await processes.start(AdapterManagerService)
    encoder = await Encoder(processes).start()
    encoder.deaf = True
    await processes.publish(skill("law"))
    await until(lambda: bool(encoder.asked), "the first question")
    encoder.deaf = False
    await ear.first(SkillInstalled)


async def test_a_card_that_no_encoder_can_load_is_rejected(processes: Processes) -> None:
    ear = await told(processes)
    await processes.start(AdapterManagerService)
    encoder = await Encoder(processes).start()
    encoder.failing = "no such layer"
    await processes.publish(skill("law"))
    rejected = await ear.first(SkillRejected)
    assert "no such layer" in rejected.data.reason


async def test_what_cannot_be_believed_is_rejected_and_nobody_loads_it(
    processes: Processes, tmp_path: Path
) -> None:
    ear = await told(processes)
    await processes.start(AdapterManagerService)
    encoder = await Encoder(processes).start()

    other = BaseModel("other", "b" * 64)
    await processes.publish(skill("law", base_model=other))
    assert "this fleet serves" in (await ear.first(SkillRejected)).data.reason

    elsewhere = CardStore(tmp_path / "elsewhere").put(skill("tax"))
    await processes.publish(elsewhere, to_store=False)
    assert "no card" in (await ear.first(SkillRejected, 2)).data.reason

    stored = processes.store.put(skill("art"))
    path = processes.store.path(stored.key)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    await processes.publish(stored, to_store=False)
    assert (await ear.first(SkillRejected, 3)).data.name == "art"

    assert not encoder.asked


async def test_one_version_is_one_card_for_ever(processes: Processes) -> None:
    ear = await told(processes)
    await processes.start(AdapterManagerService)
    await Encoder(processes).start()
    await processes.publish(skill("law", seed=1))
    await ear.first(SkillInstalled)
    await processes.publish(skill("law", seed=2))
    rejected = await ear.first(SkillRejected)
    assert "another card already" in rejected.data.reason


async def test_only_the_last_versions_are_kept(processes: Processes) -> None:
    ear = await told(processes)
    manager = await processes.start(
        AdapterManagerService, settings=settings(manager={"keep_versions": 2})
    )
    encoder = await Encoder(processes).start()
    events = []
    for version in (1, 2, 3):
        events.append(await processes.publish(skill("law", version, seed=version)))
        await ear.first(SkillInstalled, version)

    retired = await ear.first(SkillRetired)
    assert (retired.data.version, retired.data.successor) == (1, events[2].data.card.digest)
    assert await states(manager) == {3: "installed", 2: "kept", 1: "retired"}
    await until(lambda: events[0].data.card.digest in encoder.unloaded, "the hint to unload")

    await processes.publish(skill("law", 1, seed=9))
    assert (await ear.first(SkillRejected)).data.name == "law"


async def test_retiring_brings_the_one_before_back_and_a_replay_changes_nothing(
    processes: Processes,
) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    await Encoder(processes).start()
    first = await processes.publish(skill("law", 1, seed=1))
    second = await processes.publish(skill("law", 2, seed=2))
    await ear.first(SkillInstalled, 2)

    asked = await retire(processes, second.data.card.digest, 2)

    retired = await ear.first(SkillRetired)
    assert retired.causation_id == asked.id
    assert retired.data.successor == first.data.card.digest
    assert retired.data.reason == "worse"
    assert await states(manager) == {1: "installed", 2: "retired"}

    bus = await processes.bus("/federation/1")
    await bus.publish(
        Event(data=SkillFetched(card=second.data.card, peer="london"), source="/federation/1")
    )
    rejected = await ear.first(SkillRejected)
    assert "stays retired" in rejected.data.reason
    assert await states(manager) == {1: "installed", 2: "retired"}


async def test_a_card_may_be_retired_before_it_arrives(processes: Processes) -> None:
    ear = await told(processes)
    await processes.start(AdapterManagerService)
    await Encoder(processes).start()
    card = processes.store.put(skill("law"))
    await retire(processes, card.key, 1)
    await ear.first(SkillRetired)
    await processes.publish(card, to_store=False)
    assert "stays retired" in (await ear.first(SkillRejected)).data.reason


async def test_a_fetched_card_that_is_here_already_is_told_again(processes: Processes) -> None:
    ear = await told(processes)
    await processes.start(AdapterManagerService)
    await Encoder(processes).start()
    event = await processes.publish(skill("law"))
    await ear.first(SkillInstalled)
    bus = await processes.bus("/federation/1")
    await bus.publish(
        Event(data=SkillFetched(card=event.data.card, peer="london"), source="/federation/1")
    )
    again = await ear.first(SkillInstalled, 2)
    assert again.data.card == event.data.card


async def test_what_is_installed_is_so_after_a_restart(processes: Processes) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    encoder = await Encoder(processes).start()
    event = await processes.publish(skill("law"))
    await ear.first(SkillInstalled)
    await processes.kill(manager)
    encoder.asked.clear()

    again = await processes.start(AdapterManagerService)

    assert await states(again) == {1: "installed"}
    await until(lambda: event.data.card.digest in encoder.asked, "the encoder is told to warm it")
    assert len(ear.of(SkillInstalled)) == 1, "nothing is told twice"


async def test_a_card_whose_file_is_gone_is_pending_until_it_is_back(
    processes: Processes,
) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    await Encoder(processes).start()
    card = skill("law")
    event = await processes.publish(card)
    await ear.first(SkillInstalled)
    await processes.kill(manager)
    processes.store.delete(event.data.card.digest)

    manager = await processes.start(AdapterManagerService)
    assert await states(manager) == {1: "pending"}

    await processes.publish(card)
    await ear.first(SkillInstalled, 2)
    assert await states(manager) == {1: "installed"}


async def test_the_start_deletes_the_files_of_rejected_cards(processes: Processes) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    encoder = await Encoder(processes).start()
    encoder.failing = "broken"
    event = await processes.publish(skill("law"))
    await ear.first(SkillRejected)
    unknown = processes.store.put(skill("tax"))
    await processes.kill(manager)

    await processes.start(AdapterManagerService)

    assert event.data.card.digest not in processes.store.digests()
    assert unknown.key in processes.store.digests(), "its event may still be on its way"


async def test_a_long_list_comes_in_parts_those_that_serve_first(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.adapter_manager import service as module

    manager = await processes.start(AdapterManagerService)
    for number in range(4):
        card = describe(processes.store.put(skill("law", number + 1, seed=number)))
        manager.ledger.put(card, "retired" if number < 3 else "installed")
    listed = manager.listed()
    assert [card.state for card in listed] == ["installed", *["retired"] * 3]
    assert len(manager.parts()) == 1
    most = 2 * max(len(msgspec.json.encode(card)) for card in listed)
    monkeypatch.setattr(module, "PART", most)
    parts = manager.parts()
    assert len(parts) > 1
    sizes = {card.digest: len(msgspec.json.encode(card)) for card in listed}
    assert all(sum(sizes[digest] for digest in digests) <= most for digests in parts)
    assert [digest for digests in parts for digest in digests] == [it.digest for it in listed]


async def test_a_missing_model_is_one_clear_sentence(processes: Processes) -> None:
    with pytest.raises(ManagerError, match=r"the model cannot be used: .*neither a folder"):
        await processes.start(
            AdapterManagerService, settings=settings(fleet={"model": "/no/such/folder"})
        )
