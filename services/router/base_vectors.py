"""Base vectors that routing needed before: by text, with the worker that holds them too."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BaseVectors", "Held"]


class Held(NamedTuple):
    """A base vector, and who computed it."""

    vector: NDArray[np.float32]
    """(dim,)"""
    worker: str
    """Its own cache holds the vector: a head on this text costs nothing there."""


class BaseVectors:
    """Base vectors by role and text, the least recently used forgotten first."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._held: OrderedDict[bytes, Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, role: str, text: str) -> Held | None:
        """What is known of a text in a role."""
        key = _key(role, text)
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
        return held

    def put(self, role: str, text: str, vector: NDArray[np.float32], worker: str) -> None:
        """Keep a copy of a vector."""
        if not self._entries:
            return
        key = _key(role, text)
        self._held[key] = Held(np.array(vector, dtype=np.float32), worker)
        self._held.move_to_end(key)
        while len(self._held) > self._entries:
            self._held.popitem(last=False)

    def missing(self, role: str, texts: Iterable[str]) -> tuple[str, ...]:
        """The texts that are not known, each once, in order."""
        return tuple(text for text in dict.fromkeys(texts) if _key(role, text) not in self._held)

    def saved(self, role: str, texts: Iterable[tuple[str, int]]) -> dict[str, int]:
        """Tokens that each worker need not compute, of (text, tokens) pairs."""
        saved: dict[str, int] = {}
        if not self._held:
            return saved
        for text, tokens in texts:
            held = self._held.get(_key(role, text))
            if held is not None:
                saved[held.worker] = saved.get(held.worker, 0) + tokens
        return saved


def _key(role: str, text: str) -> bytes:
    return blake2b(f"{role}\n{text}".encode(), digest_size=16).digest()
