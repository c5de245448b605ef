"""Lease requests that wait for an event to become due, without holding anything up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from enum import Enum, auto

from bus import protocol
from bus.access.rights import Grant
from bus.broker.outstanding import LEASES

__all__ = ["Waiter", "Waiters"]

NOTHING = protocol.encode(protocol.Deliveries([]))


class State(Enum):
    """Where a waiter is."""

    IDLE = auto()
    TRYING = auto()
    """The journal is looking for it right now."""
    GONE = auto()


class Waiter:
    """One `lease` request, until it is answered."""

    def __init__(
        self,
        key: tuple[bytes, bytes],
        asker: Hashable,
        asked: protocol.Lease,
        reply: Callable[[bytes, bytes], bool],
        grant: Grant | None = None,
    ) -> None:
        self.key = key
        self.asker = asker
        self.asked = asked
        self.reply = reply
        self.grant = grant
        """What the asker may do; None for all."""
        self.state = State.IDLE
        self.expired = asked.wait_ms == 0 or asked.max == 0
        self.timer: asyncio.TimerHandle | None = None


class Waiters:
    """All who wait; `attempt` asks the journal for one, and `idle` or `finish` follows."""

    def __init__(self, attempt: Callable[[Waiter], None]) -> None:
        self._attempt = attempt
        self._all: dict[tuple[bytes, bytes], Waiter] = {}
        self._counts: Counter[Hashable] = Counter()
        """How many wait, by who asked."""

    def full(self, key: tuple[bytes, bytes], asker: Hashable) -> bool:
        """Whether the asker may have no further one; one that replaces another it always may."""
        return key not in self._all and self._counts[asker] >= LEASES

    def add(self, waiter: Waiter) -> None:
        """Try it now, and again on every `wake` until its time is up."""
        former = self._all.get(waiter.key)
        if former is not None:
            self._leave(former)  # asked again, over a new connection perhaps
        self._all[waiter.key] = waiter
        self._counts[waiter.asker] += 1
        if not waiter.expired:
            loop = asyncio.get_running_loop()
            waiter.timer = loop.call_later(waiter.asked.wait_ms / 1000, self._expire, waiter)
        self._try(waiter)

    def _try(self, waiter: Waiter) -> None:
        waiter.state = State.TRYING
        self._attempt(waiter)

    @property
    def groups(self) -> frozenset[str]:
        """Those as which somebody waits."""
        return frozenset(waiter.asked.group for waiter in self._all.values())

    def wake(self, types: set[str] | None) -> None:
        """Something of these types (None: anything) may be due now."""
        for waiter in list(self._all.values()):
            if waiter.state is State.IDLE and (
                types is None or not types.isdisjoint(waiter.asked.types)
            ):
                self._try(waiter)

    def idle(self, waiter: Waiter) -> None:
        """The journal had nothing for it."""
        if waiter.state is State.TRYING:
            waiter.state = State.IDLE
            if waiter.expired:
                self.finish(waiter, protocol.OK, NOTHING)

    def finish(self, waiter: Waiter, status: bytes, body: bytes) -> bool:
        """Answer it; False if nobody is there to take the answer."""
        if waiter.state is State.GONE:
            return False
        self._leave(waiter)
        return waiter.reply(status, body)

    def _expire(self, waiter: Waiter) -> None:
        waiter.expired = True
        if waiter.state is State.IDLE:
            self.finish(waiter, protocol.OK, NOTHING)

    def _leave(self, waiter: Waiter) -> None:
        del self._all[waiter.key]
        self._counts[waiter.asker] -= 1
        if not self._counts[waiter.asker]:
            del self._counts[waiter.asker]
        waiter.state = State.GONE
        if waiter.timer is not None:
            waiter.timer.cancel()

    def withdraw(self, names: Collection[str]) -> None:
        """Answer those with nothing who asked under these keys."""
        for waiter in list(self._all.values()):
            if waiter.grant is not None and waiter.grant.name in names:
                self.finish(waiter, protocol.OK, NOTHING)

    def close(self) -> None:
        """Answer everybody with nothing."""
        for waiter in list(self._all.values()):
            self.finish(waiter, protocol.OK, NOTHING)
