"""What an encoder remembers: base vectors by text, and answers it has just given."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas import Event

__all__ = ["Known", "RecentAnswers", "VectorCache"]

K = TypeVar("K")


def _key(role: str, text: str) -> bytes:
    # A digest instead of the text: what the cache takes does not depend on how long texts are.
    return blake2b(f"{role}\n{text}".encode(), digest_size=16).digest()


class Known(NamedTuple):
    """What is known of a text."""

    vector: NDArray[np.float32]
    """The base model's, (dim,), read-only."""
    tokens: int


class VectorCache:
    """Base vectors by role and text, the least recently used ones forgotten first; thread-safe."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._vectors: OrderedDict[bytes, Known] = OrderedDict()
        self._lock = Lock()
        self.hits = 0

    def __len__(self) -> int:
        return len(self._vectors)

    def __contains__(self, text: tuple[str, str]) -> bool:
        """Whether (role, text) is known; counts as no use of it."""
        return _key(*text) in self._vectors

    def get(self, role: str, text: str) -> Known | None:
        """What is known of a text in a role."""
        key = _key(role, text)
        with self._lock:
            known = self._vectors.get(key)
            if known is not None:
                self._vectors.move_to_end(key)
                self.hits += 1
            return known

    def put(self, role: str, text: str, vector: NDArray[np.float32], tokens: int) -> None:
        """Keep a copy of a (dim,) vector and the tokens of its text."""
        if not self._entries:
            return
        kept = np.array(vector, dtype=np.float32)
        kept.flags.writeable = False
        key = _key(role, text)
        with self._lock:
            self._vectors[key] = Known(kept, tokens)
            self._vectors.move_to_end(key)
            while len(self._vectors) > self._entries:
                self._vectors.popitem(last=False)


class RecentAnswers(Generic[K]):
    """Events that answered a request, kept for a while so that a repeated request costs nothing.

    `seconds` is how long, `max_bytes` how much of attachments; the oldest go first.
    """

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: OrderedDict[K, tuple[float, int, tuple[Event[Any], ...]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def keep(self, key: K, events: tuple[Event[Any], ...], now: float) -> None:
        """Remember the answer to `key`; `now` is in seconds, monotonic."""
        self._drop(key)
        size = sum(len(part) for event in events for part in event.attachments)
        self._answers[key] = (now, size, events)
        self._bytes += size
        self._forget(now)

    def get(self, key: K, now: float) -> tuple[Event[Any], ...] | None:
        """The answer given to `key` not long ago, or None."""
        self._forget(now)
        found = self._answers.get(key)
        return None if found is None else found[2]

    def _forget(self, now: float) -> None:
        while self._answers:
            key, (kept, _, _) = next(iter(self._answers.items()))
            if now - kept <= self._seconds and self._bytes <= self._max_bytes:
                return
            self._drop(key)

    def _drop(self, key: K) -> None:
        found = self._answers.pop(key, None)
        if found is not None:
            self._bytes -= found[1]
