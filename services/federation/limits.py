"""How much at a time, and how fast."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.federation.errors import PeerBusy

__all__ = ["Bucket", "Slots"]


class Bucket:
    """A common rate for all that draw from it, in bytes a second; 0 is no limit. Thread-safe."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, amount: int) -> float:
        """Book `amount` bytes; how many seconds to wait before they are moved."""
        if not self._rate:
            return 0.0
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + amount / self._rate
            return start - now


class Slots:
    """At most `total` at a time, and `each` for one holder. Thread-safe."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, holder: str) -> Iterator[None]:
        """Hold one; raises `PeerBusy` at once where none is free."""
        with self._lock:
            if self._held.total() >= self._total:
                raise PeerBusy(f"{self._total} transfers are under way, as many as may be")
            if self._held[holder] >= self._each:
                raise PeerBusy(f"{self._each} transfers to {holder} are under way already")
            self._held[holder] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[holder] -= 1
                if not self._held[holder]:
                    del self._held[holder]

    @property
    def held(self) -> int:
        """How many are held now."""
        with self._lock:
            return self._held.total()
