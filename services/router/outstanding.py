"""The books: what is owed to whom, and which worker has it; no bus, no clock."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas import EncodeAssigned, EncodeRequested, Event
from services.router.placement import Work
from services.runtime.tracing import NOTHING, Span

__all__ = ["Answer", "Entry", "Held", "Key", "Outstanding"]

Key = tuple[str, str]
"""Source and id of the event that asked: an id is unique within its source only."""

REMEMBERED: Final = 4096
"""Requests that are over, but whose worker may still hold the answer."""


class Held(NamedTuple):
    """What is owed and not answered yet."""

    texts: int = 0
    tokens: int = 0
    """Estimated."""


NOTHING_HELD: Final = Held()


class Answer(NamedTuple):
    """What a request of the router's own came to."""

    vectors: NDArray[np.float32]
    worker: str


@dataclass(eq=False)
class Entry:
    """One request that is not answered yet."""

    key: Key
    deadline: datetime
    texts: int
    """How many of the bounded texts it takes; 0 for the router's own."""
    tokens: int = 0
    """Of those texts, estimated."""
    came: float = 0.0
    """When it came in; seconds, monotonic."""
    request: Event[EncodeRequested] | None = None
    """What the client asked; None where the router itself did."""
    assigned: Event[EncodeAssigned] | None = None
    """None while it is decided which skills apply. Its id stays the same for every worker."""
    work: Work | None = None
    span: Span = NOTHING
    """From when it came to when it is closed."""
    worker: str | None = None
    cost: int = 0
    """Tokens that it counts for in its worker's load."""
    sent: float = 0.0
    """When it was last handed to the worker; seconds, monotonic."""
    answer: asyncio.Future[Answer] | None = field(default=None, repr=False)
    """Where the router itself asked."""

    @property
    def own(self) -> bool:
        """Whether the router itself asked."""
        return self.answer is not None


class Outstanding:
    """Requests by key, by the id of their assignment and by worker."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self._assigned: dict[str, Entry] = {}
        self._over: OrderedDict[Key, str] = OrderedDict()
        self._held: dict[str, Held] = {}
        self.all = Held()
        """What is owed to all clients."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def get(self, key: Key) -> Entry | None:
        """The entry of a request."""
        return self._entries.get(key)

    def open(self, entry: Entry) -> None:
        """A request came in."""
        self._entries[entry.key] = entry
        self._owe(entry, 1)
        if entry.assigned is not None:
            self._assigned[entry.assigned.id] = entry

    def assign(self, entry: Entry, assigned: Event[EncodeAssigned]) -> None:
        """It is known what a worker will be told."""
        entry.assigned = assigned
        self._assigned[assigned.id] = entry

    def of_assignment(self, id: str) -> Entry | None:
        """The entry whose assignment has this id."""
        return self._assigned.get(id)

    def of_worker(self, worker: str) -> tuple[Entry, ...]:
        """What a worker has in hand."""
        return tuple(entry for entry in self._entries.values() if entry.worker == worker)

    def unplaced(self) -> tuple[Entry, ...]:
        """What is ready for a worker and has none, the oldest first."""
        return tuple(
            entry
            for entry in self._entries.values()
            if entry.worker is None and entry.assigned is not None
        )

    def late(self, now: datetime) -> tuple[Entry, ...]:
        """What has passed its deadline."""
        return tuple(entry for entry in self._entries.values() if entry.deadline <= now)

    def close(self, entry: Entry) -> bool:
        """It is over; whether it was open."""
        if self._entries.get(entry.key) is not entry:
            return False
        del self._entries[entry.key]
        self._owe(entry, -1)
        if entry.assigned is not None:
            self._assigned.pop(entry.assigned.id, None)
        if entry.worker is not None and not entry.own:
            self._over[entry.key] = entry.worker
            self._over.move_to_end(entry.key)
            while len(self._over) > REMEMBERED:
                self._over.popitem(last=False)
        return True

    @property
    def clients(self) -> int:
        """How many clients are owed something."""
        return len(self._held)

    def held(self, source: str) -> Held:
        """What is owed to a client."""
        return self._held.get(source, NOTHING_HELD)

    def _owe(self, entry: Entry, sign: int) -> None:
        if not entry.texts:
            return
        source, texts, tokens = entry.key[0], sign * entry.texts, sign * entry.tokens
        self.all = Held(self.all.texts + texts, self.all.tokens + tokens)
        before = self.held(source)
        held = Held(before.texts + texts, before.tokens + tokens)
        if held.texts:
            self._held[source] = held
        else:
            del self._held[source]

    def served_by(self, key: Key) -> str | None:
        """The worker that answered this request not long ago and may still hold the answer."""
        return self._over.get(key)
