"""Thousands of cards in the store, hundreds in use, and a budget that does not hold them all.

The path is the encoder's: a request gets its card from the shelf, which opens and verifies it in
threads of its own, and waits for a batch; one thread computes one batch after another.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks.cards.material import Texts, head_card, plain_card
from benchmarks.cards.turns import OURS, CardsError, Part, Turns
from benchmarks.kit.rounds import compare, figure
from lora import layout
from lora.card import LoRACard, LoRAFormat
from lora.engine import ArrowEngine
from lora.store import CardStore
from services.encoder.shelf import Placed, Shelf

__all__ = ["REGISTERED", "registered", "zipf"]

REGISTERED: Final = (10, 1_000, 10_000)
USED: Final = 500
"""Different cards that requests name at most."""
CLIENTS: Final = 64
"""Requests of one text under way."""
BATCH: Final = 32
"""Texts of one batch."""
WANTED: Final = 0.95


def zipf(cards: int, count: int, seed: int) -> list[int]:
    """`count` numbers below `cards`, the one of rank r with a share of 1 / r."""
    weights = [1 / (rank + 1) for rank in range(cards)]
    return random.Random(seed).choices(range(cards), weights, k=count)


def registered(
    engine: ArrowEngine,
    texts: Texts,
    folder: Path,
    turns: Turns,
    *,
    room: int,
    count: int,
    sizes: Sequence[int] = REGISTERED,
    used: int = USED,
) -> Part:
    """Texts a second with so many cards in the store, `used` of them asked for.

    `room` is the budget in bytes of the shelf, and should be the engine's.
    """
    asked = texts.queries(2 * count)
    deep = [plain_card(engine, number) for number in range(min(used, max(sizes)))]
    paths: dict[str, _Path] = {}
    part = Part()
    for size in sizes:
        store = CardStore(folder / f"{size}")
        keys = _fill(store, deep[:size], engine, size)
        paths[f"{size:,}"] = _Path(engine, store, keys, room, asked, turns)
    for path in paths.values():
        path.warm()
        path.turn(count)
        path.opened = 0
    part.notes.append(
        f"registered: every card that is asked for was opened once before; the budget of"
        f" {room / 1e6:.0f} MB holds half of {used}, and those that come back are put in anew."
    )
    found = turns.measure("registered", {n: lambda p=p: p.turn(count) for n, p in paths.items()})
    rates = {name: [count / value for value in values] for name, values in found.items()}
    for name, path in paths.items():
        what = f"{name} cards registered, Zipf over {len(path.keys)}"
        part.figures.append(figure(what, OURS, "texts/s", rates[name]))
        share = path.opened / (count * turns.rounds)
        part.figures.append(
            figure(f"{what}: requests whose card had to come back", OURS, "", [share])
        )
    first = next(iter(rates))
    for name in list(rates)[1:]:
        part.comparisons.append(
            compare(
                f"texts/s, {name} cards registered",
                (OURS, rates[name]),
                (f"{first} registered", rates[first]),
                relation=">=",
                wanted=WANTED,
            )
        )
    return part


class _Path:
    """One store, one shelf, the engine behind them."""

    def __init__(
        self,
        engine: ArrowEngine,
        store: CardStore,
        keys: list[str],
        room: int,
        texts: list[str],
        turns: Turns,
    ) -> None:
        self.engine, self.store, self.keys, self.texts = engine, store, keys, texts
        self.opened = 0
        self._room, self._turns, self._seed = room, turns, 0
        self._shelf: Shelf | None = None
        self._files = ThreadPoolExecutor(2, thread_name_prefix="cards")
        self._torch = ThreadPoolExecutor(1, thread_name_prefix="compute")

    def turn(self, count: int) -> float:
        """Seconds for `count` requests; the shelf stays as it was left."""
        self._seed += 1
        chosen = zipf(len(self.keys), count, self._seed)
        place = self._seed * 997
        asked = [self.texts[(place + i) % len(self.texts)] for i in range(count)]
        began = self._turns.clock()
        asyncio.run(self._serve([(t, self.keys[n]) for t, n in zip(asked, chosen, strict=True)]))
        return self._turns.clock() - began

    def warm(self) -> None:
        """Every card was opened once, as in an encoder that has served for a while."""

        async def each() -> None:
            for key in self.keys:
                await self._desk().get(key)

        asyncio.run(each())

    def _desk(self) -> Shelf:
        if self._shelf is None:
            self._shelf = Shelf(self.store, self.engine, self._room, self._files, self._told)
        return self._shelf

    async def _serve(self, requests: list[tuple[str, str]]) -> None:
        shelf = self._desk()
        ready: asyncio.Queue[tuple[str, LoRACard, asyncio.Event]] = asyncio.Queue()
        waiting = iter(requests)

        async def client() -> None:
            for text, digest in waiting:
                done = asyncio.Event()
                ready.put_nowait((text, await shelf.get(digest), done))
                await done.wait()

        async def compute() -> None:
            loop, left = asyncio.get_running_loop(), len(requests)
            while left:
                batch = [await ready.get()]
                while not ready.empty() and len(batch) < BATCH:
                    batch.append(ready.get_nowait())
                vectors = await loop.run_in_executor(self._torch, self._encode, batch)
                if len(vectors) != len(batch):
                    raise CardsError("a request was not answered")
                left -= len(batch)
                for *_, done in batch:
                    done.set()

        await asyncio.gather(compute(), *(client() for _ in range(CLIENTS)))

    def _encode(self, batch: list[tuple[str, LoRACard, asyncio.Event]]) -> Sequence[object]:
        texts = [text for text, *_ in batch]
        vectors: Sequence[object] = self.engine.encode_rows(
            texts, [(card,) for _, card, _ in batch]
        )
        return vectors

    async def _told(self, placed: Placed) -> None:
        self.opened += 1


def _fill(store: CardStore, deep: Sequence[LoRACard], engine: ArrowEngine, size: int) -> list[str]:
    """Put `deep` and as many others as make `size` into the folder; the digests of `deep`.

    The others are heads of rank 1: what they take is the disk's business, not the encoder's. They
    are not flushed one by one, which is what the store does for those that matter.
    """
    keys = []
    for number in range(size):
        mine = number < len(deep)
        card = deep[number] if mine else head_card(engine, 100_000 + number, rank=1)
        data = LoRAFormat.encode(card)
        digest = layout.digest_of_bytes(data)
        store.path(digest).write_bytes(data)
        if mine:
            keys.append(digest)
    return keys
