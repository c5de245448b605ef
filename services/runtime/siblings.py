"""Several processes of one service share its work: each takes what it is the first choice for.

Every one of them hears everything, and knows by the heartbeats who is there. Rendezvous hashing
tells all of them the same, without a word between them, on any transport: who comes or goes moves
only its own share. Where two of them know of different siblings for a moment, both take something,
or neither; so what is done twice must be harmless, and whoever waits must ask again.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

__all__ = ["AT_WORK", "SILENCE", "Siblings", "weight"]

SILENCE: Final = 6.0
"""Seconds without a heartbeat after which a process is taken for gone."""

AT_WORK: Final = frozenset({"ready", "degraded"})
"""States in which a process takes work."""


def weight(topic: str, address: str) -> bytes:
    """Of all addresses the one with the least weight is the first choice for a topic."""
    return blake2b(f"{address}\n{topic}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


class Siblings:
    """The processes of one service that are at work, this one among them.

    It counts itself in when it hears its own heartbeat, which the others hear at the same time; it
    does the work of all while it hears of nobody. No clock: `now` is in seconds, monotonic.
    """

    def __init__(self, own: str, silence: float = SILENCE) -> None:
        """`own` is this process's address."""
        self._own = own
        self._silence = silence
        self._seen: dict[str, float] = {}

    def hear(self, address: str, state: str, now: float) -> bool:
        """A heartbeat of this service; whether it changes who shares the work."""
        before = self.at_work(now)
        if state in AT_WORK:
            self._seen[address] = now
        else:
            self._seen.pop(address, None)
        return self.at_work(now) != before

    def at_work(self, now: float) -> tuple[str, ...]:
        """The addresses of those who share the work, in order."""
        return tuple(
            sorted(address for address, at in self._seen.items() if now - at <= self._silence)
        )

    def count(self, now: float) -> int:
        """How many share the work, at least this one."""
        return max(1, len(self.at_work(now)))

    def others(self, now: float) -> tuple[str, ...]:
        """Who shares the work with this one."""
        return tuple(address for address in self.at_work(now) if address != self._own)

    def is_mine(self, topic: str, now: float) -> bool:
        """Whether this process is the one that does what is called so."""
        found = self.at_work(now)
        if len(found) < 2:
            return not found or found[0] == self._own
        return min(found, key=lambda address: weight(topic, address)) == self._own
