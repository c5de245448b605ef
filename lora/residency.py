"""Which cards stay in memory: least recently used leave first, pinned ones never; torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from lora.errors import CardBudgetError, ConfigError

__all__ = ["Residency"]


class Residency:
    """A budget in bytes over keys. Bookkeeping only: the caller loads and evicts.

    One thread at a time may change it (the engine holds its lock); any may look.
    """

    def __init__(self, budget: int) -> None:
        if budget < 1:
            raise ConfigError(f"the card budget must be at least 1 byte, not {budget}")
        self.budget = budget
        self._sizes: dict[str, int] = {}  # the least recently used first
        self._pinned: set[str] = set()

    @property
    def used(self) -> int:
        """Bytes of all keys that are resident."""
        return sum(list(self._sizes.values()))

    @property
    def pinned(self) -> frozenset[str]:
        """The keys that are never evicted."""
        return frozenset(self._pinned)

    def __contains__(self, key: str) -> bool:
        return key in self._sizes

    def keys(self) -> tuple[str, ...]:
        """Resident keys, the least recently used first."""
        return tuple(self._sizes)

    def admit(self, wanted: Mapping[str, int]) -> tuple[str, ...]:
        """Make room for all `wanted` keys (key to bytes) at once; the keys that have to leave.

        Raises:
            CardBudgetError: even with everything unpinned gone they would not fit; nothing changed.
        """
        kept = {key: size for key, size in self._sizes.items() if key in self._pinned}
        needed = sum({**kept, **wanted}.values())
        if needed > self.budget:
            raise CardBudgetError(
                f"the cards needed at once take {needed} bytes with the pinned ones; "
                f"the budget is {self.budget}"
            )
        for key, size in wanted.items():
            self._sizes.pop(key, None)
            self._sizes[key] = size
        evicted: list[str] = []
        excess = self.used - self.budget
        for key in list(self._sizes):
            if excess <= 0:
                break
            if key not in wanted and key not in self._pinned:
                excess -= self._sizes.pop(key)
                evicted.append(key)
        return tuple(evicted)

    def room(self) -> int:
        """Bytes that unpinned cards may take in all."""
        return self.budget - sum(self._sizes[key] for key in self._pinned if key in self._sizes)

    def forget(self, key: str) -> None:
        """The key is gone; one that was not resident is no error."""
        self._sizes.pop(key, None)
        self._pinned.discard(key)

    def pin(self, key: str) -> None:
        """Never evict this resident key."""
        if key in self._sizes:
            self._pinned.add(key)

    def unpin(self, key: str) -> None:
        """The key may be evicted again."""
        self._pinned.discard(key)
