"""Cards that come and go: from the file to the layers and out again, beside PEFT."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.cards.material import Texts, plain_card, wide_card
from benchmarks.cards.peers import BASE, Peft, installed
from benchmarks.cards.turns import OURS, PEFT, CardsError, Part, Turns, cosine, within
from benchmarks.kit.rounds import compare, figure
from lora.card import LoRACard
from lora.engine import ArrowEngine
from lora.store import CardStore
from lora.verified import SETTLED_S

__all__ = ["come_and_go"]

LOAD, APPLY, REMOVE = 100.0, 500.0, 100.0
"""Milliseconds that each may take at most."""
SHARE: Final = 0.1
"""Of PEFT's time for the same."""
ALIKE: Final = 0.9999


def come_and_go(
    engine: ArrowEngine, texts: Texts, folder: Path, turns: Turns, *, megabytes: int
) -> Part:
    """A card on query and value, and one of so many megabytes on every layer."""
    part = Part()
    for what, cards in (
        ("normal card", [plain_card(engine, number) for number in (70, 71)]),
        (f"{megabytes} MB card", [wide_card(engine, megabytes, number) for number in (0, 1)]),
    ):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            _kind(what, engine, texts, Path(place), turns, cards, part)
    return part


def _kind(
    what: str,
    engine: ArrowEngine,
    texts: Texts,
    folder: Path,
    turns: Turns,
    cards: list[LoRACard],
    part: Part,
) -> None:
    store = CardStore(folder / "cards")
    digests = [store.put(card).key for card in cards]
    size = store.path(digests[0]).stat().st_size / 1e6
    fresh = CardStore(folder / "fresh")
    fresh.put(cards[0])
    ours = _Ours(engine, (store, fresh), digests[0], store.open(digests[1]), turns)
    found: dict[str, Callable[[], float]] = {"ours": ours.turn}
    peft = None
    if installed():
        peft = _Theirs(engine, folder / "peft", cards, turns)
        found["theirs"] = peft.turn
        _check(engine, texts.mixed(8), ours, peft)
    time.sleep(SETTLED_S)  # a file that is as new as that might still change unseen
    for turn in found.values():
        turn()
    ours.clear()
    if peft is not None:
        peft.clear()
    turns.measure(what, found)
    load, apply, remove = ours.load, ours.apply, ours.remove
    both = [one + two for one, two in zip(load, apply, strict=True)]
    title = f"{what} ({size:.1f} MB)"
    steps = (
        ("load, found sound before", load),
        ("apply", apply),
        ("load + apply", both),
        ("load + apply for the first time, verified", ours.first),
        ("back, while it is still open", ours.again),
        ("remove", remove),
    )
    for name, values in steps:
        part.figures.append(figure(f"{title}: {name}", OURS, "ms", values))
    part.comparisons += [
        within(f"{title}: load", load, LOAD),
        within(f"{title}: apply", apply, APPLY),
        within(f"{title}: remove", remove, REMOVE),
    ]
    if peft is None:
        part.notes.append(f"PEFT is not installed: nothing to compare the {what} with.")
        return
    against = (
        ("load + apply", both, "load_adapter", peft.load),
        ("load + apply", both, "load_adapter, low_cpu_mem_usage", peft.low),
        ("load + apply", both, "hotswap_adapter", peft.swap),
        ("back, still open", ours.again, "hotswap_adapter", peft.swap),
        ("remove", remove, "delete_adapter", peft.delete),
    )
    for call, theirs in {call: theirs for _, _, call, theirs in against}.items():
        part.figures.append(figure(f"{title}: {call}", PEFT, "ms", theirs))
    part.comparisons.append(
        compare(
            f"{title}: load + apply for the first time, verified",
            (OURS, ours.first),
            (f"{PEFT} load_adapter", peft.load),
        )
    )
    part.notes.append(
        f"{title}: the first time a process opens a file, ours hashes every byte (SHA-256) and"
        " looks at every value; from then on only if the file has changed. PEFT does neither."
    )
    for name, mine, call, theirs in against:
        part.comparisons.append(
            compare(
                f"{title}: {name}",
                (OURS, mine),
                (f"{PEFT} {call}", theirs),
                relation="<=",
                wanted=SHARE,
            )
        )


class _Ours:
    """Store to mapping to layers, and out again, in a model that holds another card."""

    def __init__(
        self,
        engine: ArrowEngine,
        stores: tuple[CardStore, CardStore],
        digest: str,
        other: LoRACard,
        turns: Turns,
    ) -> None:
        """The first store's file is left alone, the second's is touched before each turn."""
        self.engine, self.digest, self.other = engine, digest, other
        self.store, self._fresh = stores
        self._clock = turns.clock
        self.load: list[float] = []
        self.apply: list[float] = []
        self.remove: list[float] = []
        self.again: list[float] = []
        self.first: list[float] = []

    def turn(self) -> float:
        clock, manager = self._clock, self.engine.manager
        with self.engine.exclusive():
            manager.apply_card(self.other)  # as PEFT's model holds another one, too
            began = clock()
            card = self.store.open(self.digest)
            opened = clock()
            manager.apply_card(card)
            applied = clock()
            manager.remove_card(card)
            removed = clock()
            manager.apply_card(card)
            again = clock()
            manager.remove_card(card)
            self._fresh.path(self.digest).touch()
            unread = clock()
            unknown = self._fresh.open(self.digest)
            manager.apply_card(unknown)
            first = clock()
            manager.remove_card(unknown)
            manager.remove_card(self.other)
        self.load.append(1000 * (opened - began))
        self.apply.append(1000 * (applied - opened))
        self.remove.append(1000 * (removed - applied))
        self.again.append(1000 * (again - removed))
        self.first.append(1000 * (first - unread))
        return removed - began

    def clear(self) -> None:
        """Forget what was measured so far."""
        for values in (self.load, self.apply, self.remove, self.again, self.first):
            values.clear()


class _Theirs:
    """The same card as a folder of PEFT's, added to a model that holds another one already."""

    def __init__(
        self, engine: ArrowEngine, folder: Path, cards: list[LoRACard], turns: Turns
    ) -> None:
        self.card, self.other = cards
        self.peft = Peft(engine.model_folder, folder, self.other)
        self.peft.exported(self.card)
        self._clock = turns.clock
        self.load: list[float] = []
        self.low: list[float] = []
        self.swap: list[float] = []
        self.delete: list[float] = []

    def turn(self) -> float:
        clock = self._clock
        began = clock()
        self.peft.load(self.card)
        loaded = clock()
        self.peft.delete(self.card)
        deleted = clock()
        self.peft.load(self.card, low_memory=True)
        low = clock()
        self.peft.delete(self.card)
        again = clock()
        self.peft.swap(self.card, self.other)
        swapped = clock()
        self.load.append(1000 * (loaded - began))
        self.delete.append(1000 * (deleted - loaded))
        self.low.append(1000 * (low - deleted))
        self.swap.append(1000 * (swapped - again))
        return swapped - began

    def clear(self) -> None:
        """Forget what was measured so far."""
        for values in (self.load, self.low, self.swap, self.delete):
            values.clear()


def _check(engine: ArrowEngine, texts: list[str], ours: _Ours, theirs: _Theirs) -> None:
    """Both made the same vectors of the card, and ours are the base's once it is gone."""
    before = engine.encode(texts)
    card = ours.store.open(ours.digest)
    bent = engine.encode_rows(texts, [(card,)] * len(texts))
    engine.evict(card)
    theirs.peft.load(theirs.card)
    other = theirs.peft.encode(texts, [theirs.card.name] * len(texts))
    theirs.peft.delete(theirs.card)
    plain = theirs.peft.encode(texts, [BASE] * len(texts))
    if min(cosine(bent, other), cosine(before, plain)) < ALIKE:
        raise CardsError("PEFT's vectors are others than ours")
    if not np.array_equal(engine.encode(texts), before):
        raise CardsError("a card that was removed left something behind")
