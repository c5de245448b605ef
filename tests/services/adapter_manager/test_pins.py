"""Pins: remembered, told to every encoder that is or comes, undone, and gone with the version."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lora.card import LoRACard
from schemas import AdapterLoad, Event, SkillInstalled, SkillPin, SkillRetired
from services.adapter_manager.service import AdapterManagerService
from tests.services.adapter_manager.test_service import Encoder, retire, told
from tests.services.encoder.processes import Ear, Processes, skill, until


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    await processes.aclose()


async def pin(processes: Processes, card: LoRACard, pinned: bool = True) -> None:
    data = SkillPin(name=card.name, version=card.version, digest=card.key, pinned=pinned)
    bus = await processes.bus("/client/9")
    await bus.publish(Event(data=data, source="/client/9"))


async def installed(processes: Processes, ear: Ear, *cards: LoRACard) -> list[LoRACard]:
    stored = [processes.store.put(card) for card in cards]
    for number, card in enumerate(stored, start=1):
        await processes.publish(card, to_store=False)
        await ear.first(SkillInstalled, number)
    return stored


def heard(ear: Ear, pinned: bool) -> list[str]:
    return [e.data.digest for e in ear.of(AdapterLoad) if e.data.pin is pinned]


async def test_every_encoder_is_told_those_too_that_come_later(processes: Processes) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    first, later = [await processes.ear(AdapterLoad, to=f"encoder-{n}") for n in (1, 2)]
    await Encoder(processes, "1").start()
    law, tax = await installed(processes, ear, skill("law"), skill("tax"))

    await pin(processes, law)
    await until(lambda: heard(first, True) == [law.key], "the pin")
    assert {card.name: card.pinned for card in manager.listed()} == {"law": True, "tax": False}
    assert manager.counters["pinned"] == 1

    await Encoder(processes, "2").start()
    await until(lambda: heard(later, True) == [law.key], "the pin, told to the newcomer")
    assert tax.key not in heard(first, True)


async def test_a_pin_outlives_the_manager_and_is_undone(processes: Processes) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    hints = await processes.ear(AdapterLoad, to="encoder-1")
    await Encoder(processes).start()
    (law,) = await installed(processes, ear, skill("law"))
    await pin(processes, law)
    await until(lambda: heard(hints, True) == [law.key], "the pin")
    await processes.kill(manager)

    manager = await processes.start(AdapterManagerService)
    await until(lambda: len(heard(hints, True)) == 2, "the pin, told again")
    await pin(processes, law, pinned=False)
    await until(lambda: heard(hints, False) == [law.key], "the unpin")
    assert not any(card.pinned for card in manager.listed())


async def test_what_is_retired_is_pinned_no_more(processes: Processes) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    await Encoder(processes).start()
    (law,) = await installed(processes, ear, skill("law"))
    await pin(processes, law)
    await until(lambda: any(card.pinned for card in manager.listed()), "the pin")
    await retire(processes, law.key, 1)
    await ear.first(SkillRetired)
    assert not any(card.pinned for card in manager.listed())
    assert manager.ledger.pinned() == []


async def test_only_what_serves_is_pinned(processes: Processes) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    await Encoder(processes).start()
    (law,) = await installed(processes, ear, skill("law"))
    await pin(processes, processes.store.put(skill("tax")))
    await pin(processes, law)
    await until(lambda: manager.ledger.pinned() == [law.key], "the pin that holds")


async def test_an_encoder_that_keeps_other_cards_than_it_should_is_told_again(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hints may be lost; this encoder's heartbeats never tell of any pinned card."""
    monkeypatch.setattr("services.adapter_manager.service.AGAIN", 0.05)
    ear = await told(processes)
    await processes.start(AdapterManagerService)
    hints = await processes.ear(AdapterLoad, to="encoder-1")
    await Encoder(processes).start()
    (law,) = await installed(processes, ear, skill("law"))
    await pin(processes, law)
    await until(lambda: len(heard(hints, True)) >= 3, "the pin, told again and again")


async def test_an_encoder_that_missed_an_unpin_is_told_again(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.adapter_manager.service.AGAIN", 0.05)
    ear = await told(processes)
    await processes.start(AdapterManagerService)
    hints = await processes.ear(AdapterLoad, to="encoder-1")
    encoder = await Encoder(processes).start()
    law, tax = await installed(processes, ear, skill("law"), skill("tax"))
    await pin(processes, law)
    await until(lambda: heard(hints, True) != [], "the pin")
    encoder.counters = {"pinned": 2}  # one that was unpinned before is among them
    await until(lambda: heard(hints, False) != [], "the unpin, told again")
    assert set(heard(hints, False)) == {tax.key}
