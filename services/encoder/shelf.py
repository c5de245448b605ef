"""The cards an encoder has mapped: opened and verified off the loop, the least used put back.

What a request costs here does not grow with the cards, and no request waits for another one's card:
neither for its file, nor for a batch that is computed.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple, Protocol

from lora.card import LoRACard
from lora.errors import CardBudgetError, CardNotFoundError, LoRAError, StoreError
from lora.residency import Residency
from lora.store import CardStore
from services.encoder.errors import PinRefusedError, SkillFileError, SkillStoreError

__all__ = ["Holder", "Placed", "Shelf"]

PINNED: Final = 0.5
"""Share of the budget that pinned cards may take."""

KNOWN: Final = 1024
"""Cards that had to leave and are kept open, some 15 kB each: what was verified once, and is mapped
still, need not be read again. Their numbers are the file's own pages, which the system may drop."""


class Fitter(Protocol):
    """What is needed of `lora.manager.LoRAManager`."""

    def prepare(self, card: LoRACard) -> object:
        """Refuses a card that does not fit the model; waits for no batch."""
        ...


class Holder(Protocol):
    """What is needed of `lora.engine.ArrowEngine`.

    Its other methods wait for the batch that is computed. So none of them is called when a card is
    opened: the engine puts it in when a row needs it, and lets others go by a budget of its own.
    """

    @property
    def manager(self) -> Fitter:
        """Tells whether a card fits."""
        ...

    def pin(self, card: LoRACard) -> None:
        """Put a card into the model and keep it there; refuses one that does not fit."""
        ...

    def unpin(self, card: LoRACard) -> None:
        """Let it be evicted again."""
        ...

    def evict(self, card: LoRACard) -> None:
        """Take it out of the model."""
        ...


class Placed(NamedTuple):
    """A card that came onto the shelf, and what had to leave for it."""

    card: LoRACard
    milliseconds: float
    left: tuple[LoRACard, ...]


class Shelf:
    """Cards by digest, within a budget of bytes; used from one event loop.

    `told` hears of every card that was mapped (with those that left), whoever asked for it.
    """

    def __init__(
        self,
        store: CardStore,
        holder: Holder,
        budget: int,
        executor: Executor,
        told: Callable[[Placed], Coroutine[Any, Any, None]],
    ) -> None:
        self._store = store
        self._holder = holder
        self._residency = Residency(budget)
        self._executor = executor
        self._told = told
        self._cards: dict[str, LoRACard] = {}
        self._known: OrderedDict[str, LoRACard] = OrderedDict()  # the first that left first
        self._opening: dict[str, asyncio.Task[LoRACard]] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._cards)

    def __contains__(self, digest: object) -> bool:
        return digest in self._cards

    async def get(self, digest: str) -> LoRACard:
        """The mapped card, from the store if need be; raises `SkillFileError`."""
        card = self._cards.get(digest)
        if card is not None:
            self._residency.touch(digest)
            return card
        opening = self._opening.get(digest)
        if opening is None:
            opening = asyncio.create_task(self._place(digest), name=f"open {digest[:19]}")
            self._opening[digest] = opening
            opening.add_done_callback(lambda _: self._opening.pop(digest, None))
        # Shielded: one request that is given up must not take the card away from the others.
        return await asyncio.shield(opening)

    async def pin(self, digest: str) -> LoRACard:
        """Map a card and keep it.

        Pinned cards take half of the budget at most: the rest is for what requests need.
        Raises `SkillFileError`, `PinRefusedError`, `CardBudgetError`.
        """
        card = await self.get(digest)
        held = self._residency.held
        if digest not in self._residency.pinned:
            held += card.nbytes
        if held > self._residency.budget * PINNED:
            raise PinRefusedError(
                f"{card.name}@{card.version} is not pinned: with it the pinned cards would take "
                f"{held} bytes, more than half of the budget of {self._residency.budget}"
            )
        self._residency.pin(digest)
        try:
            await self._thread(self._holder.pin, card)
        except LoRAError:
            self._residency.unpin(digest)
            raise
        return card

    async def unpin(self, digest: str) -> None:
        """Let a card be put back again; one that is not here is not pinned either."""
        card = self._cards.get(digest)
        was = digest in self._residency.pinned
        self._residency.unpin(digest)
        if card is not None and was:
            await self._thread(self._holder.unpin, card)

    @property
    def pinned(self) -> int:
        """How many cards are kept."""
        return len(self._residency.pinned)

    async def put_back(self, digest: str) -> LoRACard | None:
        """Let a card go, pinned or not; the card, if it was here."""
        card = self._cards.pop(digest, None)
        self._known.pop(digest, None)
        self._residency.forget(digest)
        if card is not None:
            await self._thread(self._holder.evict, card)
        return card

    async def _place(self, digest: str) -> LoRACard:
        started = time.monotonic()
        known = self._known.pop(digest, None)
        try:
            if known is None and self._store.fetches:
                # In a thread of its own: those that open files and read texts wait for no network.
                await asyncio.to_thread(self._store.bring, digest)
            card = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._open, digest, known
            )
            gone = self._residency.admit({digest: card.nbytes})
        except CardNotFoundError as error:
            raise SkillFileError(str(error), missing=True) from error
        except StoreError as error:
            raise SkillStoreError(str(error), missing=False) from error
        except LoRAError as error:
            raise SkillFileError(str(error), missing=False) from error
        self._cards[digest] = card
        milliseconds = (time.monotonic() - started) * 1000
        left = tuple(self._cards.pop(key) for key in gone)
        for other in left:
            other.let_go()
            self._known[other.key] = other
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)
        telling = asyncio.create_task(self._told(Placed(card, milliseconds, left)))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
        return card

    def _open(self, digest: str, known: LoRACard | None) -> LoRACard:
        # A file never changes, but it may be gone: then the card is nobody's any more.
        held = known is not None and self._store.path(digest).exists()
        card = known if known is not None and held else self._store.open(digest)
        if card.nbytes > self._residency.budget:  # before it is unpacked
            raise CardBudgetError(
                f"{card.name}@{card.version} takes {card.nbytes} bytes; the budget is "
                f"{self._residency.budget}"
            )
        self._holder.manager.prepare(card)  # what does not fit is refused now, not in a batch
        return card

    async def _thread(self, work: Callable[[LoRACard], None], card: LoRACard) -> None:
        # A thread of its own: it waits for the batch that is computed, which no request may do.
        await asyncio.to_thread(work, card)
