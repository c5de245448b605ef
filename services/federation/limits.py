"""How much at a time, how fast, and how often."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.federation.errors import PeerBusy

__all__ = ["Bucket", "Hold", "Ration", "Slots"]

Clock = Callable[[], float]


class Bucket:
    """A common rate for all that draw from it, in bytes a second; 0 is no limit. Thread-safe."""

    def __init__(self, rate: int, *, clock: Clock = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, amount: int) -> float:
        """Book `amount` bytes; how many seconds to wait before they are moved."""
        if not self._rate:
            return 0.0
        with self._lock:
            now = self._clock()
            start = max(now, self._free_at)
            self._free_at = start + amount / self._rate
            return start - now


class Hold:
    """One of the `Slots`, while it is held."""

    def __init__(self, holder: str, until: float) -> None:
        self.holder = holder
        self.until = until
        """When it may be given to somebody else, unless there is progress before."""
        self.lost = False
        """It was given to somebody else."""


class Slots:
    """At most `total` at a time, and `each` for one holder. Thread-safe.

    A holder that makes no progress for `stall` seconds loses its slot to who asks for one.
    """

    def __init__(
        self,
        total: int,
        each: int,
        *,
        stall: float = math.inf,
        clock: Clock = time.monotonic,
    ) -> None:
        self._total = total
        self._each = each
        self._stall = stall
        self._clock = clock
        self._lock = threading.Lock()
        self._held: set[Hold] = set()

    @contextmanager
    def hold(self, holder: str) -> Iterator[Hold]:
        """Hold one; raises `PeerBusy` at once where none is free."""
        with self._lock:
            if self._refusal(holder) is not None:
                self._take_back()
            refusal = self._refusal(holder)
            if refusal is not None:
                raise PeerBusy(refusal)
            hold = Hold(holder, self._clock() + self._stall)
            self._held.add(hold)
        try:
            yield hold
        finally:
            with self._lock:
                self._held.discard(hold)

    def progress(self, hold: Hold, pause: float = 0.0) -> bool:
        """Say that it goes on after `pause` seconds of our own; False where the slot is lost."""
        with self._lock:
            hold.until = self._clock() + pause + self._stall
            return not hold.lost

    @property
    def held(self) -> int:
        """How many are held now."""
        with self._lock:
            return len(self._held)

    def _refusal(self, holder: str) -> str | None:
        if len(self._held) >= self._total:
            return f"{self._total} transfers are under way, as many as may be"
        if sum(hold.holder == holder for hold in self._held) >= self._each:
            return f"{self._each} transfers to {holder} are under way already"
        return None

    def _take_back(self) -> None:
        now = self._clock()
        for hold in tuple(self._held):
            if hold.until < now:
                hold.lost = True
                self._held.remove(hold)


class Ration:
    """At most `total` in `seconds`, and `each` of them for one holder."""

    def __init__(
        self, total: int, each: int, seconds: float, *, clock: Clock = time.monotonic
    ) -> None:
        self._total = total
        self._each = each
        self._seconds = seconds
        self._clock = clock
        self._given: deque[tuple[float, str]] = deque()
        self._holders: Counter[str] = Counter()

    def take(self, holder: str) -> bool:
        """Whether there is one more for this holder."""
        now = self._clock()
        while self._given and self._given[0][0] <= now - self._seconds:
            _, before = self._given.popleft()
            self._holders[before] -= 1
            if not self._holders[before]:
                del self._holders[before]
        if len(self._given) >= self._total or self._holders[holder] >= self._each:
            return False
        self._given.append((now, holder))
        self._holders[holder] += 1
        return True
