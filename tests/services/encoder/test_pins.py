"""Pinned cards stay, within half of the budget; a pin that is refused is told and blocks nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lora.card import LoRACard
from lora.store import CardStore
from schemas import AdapterFailed, AdapterLoad, AdapterLoaded, Event
from services.encoder.errors import PinRefusedError
from services.encoder.service import EncoderService
from services.encoder.shelf import Placed, Shelf
from tests.services.encoder.processes import Processes, settings, skill, until

BUDGET = 1 << 20


class Holder:
    """A model without a model."""

    def __init__(self) -> None:
        self.kept: set[str] = set()

    @property
    def manager(self) -> Holder:
        return self

    def prepare(self, card: LoRACard) -> object:
        return None

    def pin(self, card: LoRACard) -> None:
        self.kept.add(card.key)

    def unpin(self, card: LoRACard) -> None:
        self.kept.discard(card.key)

    def evict(self, card: LoRACard) -> None:
        self.kept.discard(card.key)


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[tuple[Shelf, list[LoRACard]]]:
    """Room for four cards, and six of them in the store."""
    store = CardStore(tmp_path)
    cards = [store.put(skill(f"law{n}", seed=n)) for n in range(6)]

    async def told(placed: Placed) -> None:
        return

    with ThreadPoolExecutor(1) as files:
        yield Shelf(store, Holder(), 4 * cards[0].nbytes + 100, files, told), cards


async def test_pinned_cards_stay_while_others_come_and_go(
    shelf: tuple[Shelf, list[LoRACard]],
) -> None:
    held, cards = shelf
    await held.pin(cards[0].key)
    for card in cards[1:]:
        await held.get(card.key)
    assert [card.key in held for card in cards] == [True, False, False, True, True, True]
    assert held.pinned == 1

    await held.unpin(cards[0].key)
    for card in cards[1:5]:
        await held.get(card.key)
    assert cards[0].key not in held
    assert held.pinned == 0


async def test_half_of_the_budget_is_left_for_what_requests_need(
    shelf: tuple[Shelf, list[LoRACard]],
) -> None:
    held, cards = shelf
    await held.pin(cards[0].key)
    await held.pin(cards[1].key)
    await held.pin(cards[1].key)
    with pytest.raises(PinRefusedError, match=r"law2@1 is not pinned: .* more than half"):
        await held.pin(cards[2].key)
    assert held.pinned == 2
    for card in cards:
        await held.get(card.key)
    assert cards[0].key in held


async def test_what_was_put_back_is_pinned_no_more(shelf: tuple[Shelf, list[LoRACard]]) -> None:
    held, cards = shelf
    await held.pin(cards[0].key)
    await held.put_back(cards[0].key)
    await held.unpin(cards[0].key)
    assert held.pinned == 0


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    await processes.aclose()


@pytest.mark.timeout(120)
async def test_a_refused_pin_is_told_and_the_card_serves_all_the_same(
    processes: Processes,
) -> None:
    ear = await processes.ear(AdapterLoaded, AdapterFailed)
    encoder = await processes.start(
        EncoderService, settings=settings(encoder={"card_budget_bytes": BUDGET})
    )
    small = processes.store.put(skill("law", seed=1))
    large = processes.store.put(skill("tax", seed=2, modules={"embedding": _wide()}))
    bus = await processes.bus("/adapter_manager/1")

    async def hint(card: LoRACard, pin: bool) -> None:
        data = AdapterLoad(digest=card.key, pin=pin)
        event: Event[Any] = Event(data=data, source="/adapter_manager/1", to="encoder-1")
        await bus.publish(event)

    await hint(small, True)
    await until(lambda: encoder.counters["pinned"] == 1, "the pin")
    await hint(large, True)
    failed = await ear.first(AdapterFailed)
    assert failed.data.digest == large.key
    assert "more than half of the budget" in (failed.data.message or "")
    assert large.key in encoder.shelf
    assert (encoder.counters["pinned"], encoder.counters["pins_refused"]) == (1, 1)

    await hint(small, False)
    await hint(large, False)
    await until(lambda: encoder.counters["pins_refused"] == 0, "nothing is refused any more")
    await until(lambda: encoder.counters["pinned"] == 0, "the unpin")


def _wide() -> Any:
    from tests.services.encoder.processes import head

    return head(3, rank=200)
