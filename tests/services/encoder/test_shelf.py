"""Cards come and go on the shelf, and no request waits for what is another one's business."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora.card import LoRACard
from lora.errors import NoMatchingModuleError
from lora.store import CardStore
from services.encoder.errors import SkillFileError
from services.encoder.shelf import Placed, Shelf
from tests.services.encoder.processes import skill, until


class BusyHolder:
    """A model that computes: whoever would put a card in, or take one out, waits."""

    def __init__(self) -> None:
        self.fitted: list[str] = []
        self.kept: set[str] = set()
        self.free = threading.Event()
        self.free.set()

    @property
    def manager(self) -> BusyHolder:
        return self

    def prepare(self, card: LoRACard) -> object:
        self.fitted.append(card.key)
        if card.name == "law5":
            raise NoMatchingModuleError("law5 targets nothing that this model has")
        return None

    def pin(self, card: LoRACard) -> None:
        assert self.free.wait(20)
        self.kept.add(card.key)

    def unpin(self, card: LoRACard) -> None:
        assert self.free.wait(20)
        self.kept.discard(card.key)

    def evict(self, card: LoRACard) -> None:
        self.unpin(card)


class SlowStore(CardStore):
    """A store one of whose files is on a disk that sleeps."""

    asleep = ""
    read = 0
    awake = threading.Event()

    def open(self, digest: str) -> LoRACard:
        if digest == self.asleep:
            assert self.awake.wait(20)
        self.read += 1
        return super().open(digest)


class Desk:
    """A shelf with room for three cards, six of them in its store."""

    def __init__(self, folder: Path, files: ThreadPoolExecutor) -> None:
        self.store = SlowStore(folder)
        self.cards = [self.store.put(skill(f"law{n}", seed=n)) for n in range(6)]
        self.keys = [card.key for card in self.cards]
        self.holder = BusyHolder()
        self.said: list[Placed] = []
        room = 3 * self.cards[0].nbytes + 100
        self.shelf = Shelf(self.store, self.holder, room, files, self.told)

    async def told(self, placed: Placed) -> None:
        self.said.append(placed)

    async def settled(self, count: int) -> None:
        await until(lambda: len(self.said) >= count, f"{count} cards were told of")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    with ThreadPoolExecutor(2) as files:
        yield Desk(tmp_path, files)


async def test_what_was_not_used_for_longest_leaves_and_is_told(desk: Desk) -> None:
    for number in (0, 1, 2, 0, 3):
        await desk.shelf.get(desk.keys[number])
    await desk.settled(4)
    assert [key in desk.shelf for key in desk.keys[:4]] == [True, False, True, True]
    assert [card.key for placed in desk.said for card in placed.left] == [desk.keys[1]]


async def test_cards_come_and_go_while_the_model_computes(desk: Desk) -> None:
    desk.holder.free.clear()
    for number in (0, 1, 2, 3, 4, 0):
        assert (await desk.shelf.get(desk.keys[number])).key == desk.keys[number]
    await desk.settled(6)
    desk.holder.free.set()


async def test_a_card_that_does_not_fit_is_refused_before_any_batch(desk: Desk) -> None:
    with pytest.raises(SkillFileError, match="targets nothing") as refused:
        await desk.shelf.get(desk.keys[5])
    assert not refused.value.missing
    assert desk.keys[5] not in desk.shelf


async def test_a_card_that_left_comes_back_without_being_read_again(desk: Desk) -> None:
    first = await desk.shelf.get(desk.keys[0])
    for number in (1, 2, 3):
        await desk.shelf.get(desk.keys[number])
    await desk.settled(4)
    assert desk.keys[0] not in desk.shelf
    read = desk.store.read
    assert await desk.shelf.get(desk.keys[0]) is first
    assert desk.store.read == read
    await desk.settled(5)


async def test_a_card_that_left_and_whose_file_is_gone_is_unknown(desk: Desk) -> None:
    for number in (0, 1, 2, 3):
        await desk.shelf.get(desk.keys[number])
    await desk.settled(4)
    desk.store.delete(desk.keys[0])
    with pytest.raises(SkillFileError) as refused:
        await desk.shelf.get(desk.keys[0])
    assert refused.value.missing


async def test_what_was_put_back_is_read_anew(desk: Desk) -> None:
    first = await desk.shelf.get(desk.keys[0])
    assert await desk.shelf.put_back(desk.keys[0]) is first
    assert await desk.shelf.put_back(desk.keys[0]) is None
    assert await desk.shelf.get(desk.keys[0]) is not first


async def test_a_card_that_comes_slowly_holds_up_no_other(desk: Desk) -> None:
    desk.store.asleep = desk.keys[0]
    desk.store.awake.clear()
    slow = [asyncio.create_task(desk.shelf.get(desk.keys[0])) for _ in range(2)]
    await asyncio.sleep(0)
    for key in desk.keys[1:4]:
        assert (await desk.shelf.get(key)).key == key
    assert not any(task.done() for task in slow)
    desk.store.awake.set()
    first, second = await asyncio.gather(*slow)
    assert first is second
