"""Which cards stay in memory: least recently used leave first, pinned ones never; torch-free."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import KeysView, Mapping

from lora.errors import CardBudgetError, ConfigError

__all__ = ["Residency"]


class Residency:
    """A budget in bytes over keys. Bookkeeping only: the caller loads and evicts.

    What a call costs does not depend on how many keys are resident. One thread at a time may change
    it (the engine holds its lock); any may look.
    """

    def __init__(self, budget: int) -> None:
        if budget < 1:
            raise ConfigError(f"the card budget must be at least 1 byte, not {budget}")
        self.budget = budget
        self._loose: OrderedDict[str, int] = OrderedDict()  # the least recently used first
        self._pinned: dict[str, int] = {}
        self._used = 0
        self._held = 0

    @property
    def used(self) -> int:
        """Bytes of all keys that are resident."""
        return self._used

    @property
    def held(self) -> int:
        """Bytes of the keys that are never evicted."""
        return self._held

    @property
    def pinned(self) -> KeysView[str]:
        """The keys that are never evicted; a view."""
        return self._pinned.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._loose or key in self._pinned

    def __len__(self) -> int:
        return len(self._loose) + len(self._pinned)

    def keys(self) -> tuple[str, ...]:
        """Resident keys: those that are pinned, then the others, the least recently used first."""
        return tuple(dict.fromkeys((*self._pinned, *self._loose)))

    def touch(self, key: str) -> None:
        """A resident key was used just now."""
        if key in self._loose:
            self._loose.move_to_end(key)

    def admit(self, wanted: Mapping[str, int]) -> tuple[str, ...]:
        """Make room for all `wanted` keys (key to bytes) at once; the keys that have to leave.

        Raises:
            CardBudgetError: even with everything unpinned gone they would not fit; nothing changed.
        """
        needed = self._held + sum(size - self._pinned.get(key, 0) for key, size in wanted.items())
        if needed > self.budget:
            raise CardBudgetError(
                f"the cards needed at once take {needed} bytes with the pinned ones; "
                f"the budget is {self.budget}"
            )
        for key, size in wanted.items():
            if key in self._pinned:
                self._held += size - self._pinned[key]
                self._used += size - self._pinned[key]
                self._pinned[key] = size
            else:
                self._used += size - self._loose.get(key, 0)
                self._loose[key] = size
                self._loose.move_to_end(key)
        evicted: list[str] = []
        # Those that are wanted come last, and fit: what leaves is never one of them.
        while self._used > self.budget:
            key, size = self._loose.popitem(last=False)
            self._used -= size
            evicted.append(key)
        return tuple(evicted)

    def room(self) -> int:
        """Bytes that unpinned cards may take in all."""
        return self.budget - self._held

    def forget(self, key: str) -> None:
        """The key is gone; one that was not resident is no error."""
        self.unpin(key)
        self._used -= self._loose.pop(key, 0)

    def pin(self, key: str) -> None:
        """Never evict this resident key."""
        if key in self._loose:
            size = self._loose.pop(key)
            self._pinned[key] = size
            self._held += size

    def unpin(self, key: str) -> None:
        """The key may be evicted again; it counts as used just now."""
        if key in self._pinned:
            size = self._pinned.pop(key)
            self._loose[key] = size
            self._held -= size
