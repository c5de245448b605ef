"""What is in hand: assigned and not answered yet, and which routers wait for a word of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from schemas import EncodeAssigned, Event
from services.encoder.answers import Word, together, told_to

__all__ = ["Done", "Hand", "Key", "key_of"]

Key = tuple[str, str, bytes]
"""Who is to be answered, the id of the request, and what it asks: two clients may use the same id,
and so may one client that has started anew."""


def key_of(data: EncodeAssigned) -> Key:
    """By what an assignment is known again, whichever router it comes from."""
    asked = blake2b(msgspec.msgpack.encode((data.role, data.texts)), digest_size=16)
    return data.reply_to, data.request_id, asked.digest()


class Done(NamedTuple):
    """An assignment that is over, and the words that say so."""

    key: Key
    event: Event[EncodeAssigned]
    words: Sequence[Word]


class Hand:
    """Assignments by key; `empty` is set while there are none."""

    def __init__(self) -> None:
        self._events: dict[Key, Event[EncodeAssigned]] = {}
        self.asked_too: dict[Key, set[str]] = {}
        """Other routers that have assigned the same: one may take the place of another."""
        self.empty = asyncio.Event()
        self.empty.set()

    def __len__(self) -> int:
        return len(self._events)

    def __contains__(self, key: Key) -> bool:
        return key in self._events

    def take(self, key: Key, event: Event[EncodeAssigned]) -> None:
        """Something came in."""
        self._events[key] = event
        self.empty.clear()

    def again(self, key: Key, router: str) -> None:
        """What is in hand was assigned once more."""
        if router != self._events[key].data.router:
            self.asked_too.setdefault(key, set()).add(router)

    def words(self, done: Iterable[Done], max_bytes: int) -> list[Word]:
        """What their routers are told: once for all of it, whoever reads that."""
        several: list[Word] = []
        alone: list[Word] = []
        for key, event, words in done:
            (several if event.data.several else alone).extend(words)
            for router in sorted(self.asked_too.pop(key, ())):
                alone.extend(told_to(router, words))
        return together(several, max_bytes) + alone

    def put_down(self, done: Iterable[Done]) -> None:
        """All is told."""
        for key, _, _ in done:
            self._events.pop(key, None)
            self.asked_too.pop(key, None)
        if not self._events:
            self.empty.set()
