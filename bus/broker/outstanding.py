"""What each asker has under way in the journal: beyond its share it is told to come again.

The journal works off one thing after the other, so that what one asks for in masses is what all
others wait for.
"""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["CALLS", "LEASES", "RETRY_MS", "Outstanding", "weight"]

CALLS = 1024
"""What an asker may have under way; most requests count one. Tools that do not wait for one answer
before they ask again have hundreds; of as many a queue still holds the answers."""
LONG = 16
"""What those count that go through many events, and may have megabytes as their answer."""
LEASES = 256
"""Requests for a lease that may wait for an event, of one asker: each event tries each of them."""
RETRY_MS = 100
"""Milliseconds after which who was told so may come again."""
_LONG = frozenset((b"read", b"dead", b"groups", b"drop", b"erase"))


def weight(verb: bytes) -> int:
    """What a request counts."""
    return LONG if verb in _LONG else 1


class Outstanding:
    """The shares: `calls` and `size` bytes for each asker; a single request may be larger."""

    def __init__(self, calls: int, size: int) -> None:
        self._calls = calls
        self._size = size
        self._under_way: dict[Hashable, tuple[int, int]] = {}

    def full(self, asker: Hashable, calls: int, size: int) -> str:
        """Why this cannot be taken now; nothing where it can."""
        if asker not in self._under_way:
            return ""
        before, held = self._under_way[asker]
        if before + calls > self._calls:
            return f"this client has too many requests under way: at most {self._calls}"
        if held + size > self._size:
            return f"this client has too much under way: at most {self._size} bytes"
        return ""

    def enter(self, asker: Hashable, calls: int, size: int) -> None:
        """It is under way."""
        before, held = self._under_way.get(asker, (0, 0))
        self._under_way[asker] = before + calls, held + size

    def leave(self, asker: Hashable, calls: int, size: int) -> None:
        """It was answered."""
        before, held = self._under_way.pop(asker)
        if before > calls:
            self._under_way[asker] = before - calls, held - size
