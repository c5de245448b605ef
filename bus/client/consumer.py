"""A member of a group: leases from the journal, and their ends."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

import schemas
from bus import protocol
from bus.contract import Consumer, Delivery, Start
from bus.errors import BusError, Closed, Refused, StaleLease, Unreachable
from bus.signal import Signal
from schemas import Event

if TYPE_CHECKING:
    from bus.client.client import ClientBus

__all__ = ["Leased", "Member"]

WAIT_MS = 20_000
ON_ITS_WAY = 1.0
"""Seconds that an answer with leases may have taken: they ran from when it was written."""
IDLE = 1.0
"""Seconds that a delivery waits for somebody to ask for it, where nobody does."""
_log = logging.getLogger(__name__)


class Leased(Delivery):
    """One event in the hands of this process."""

    def __init__(
        self, bus: ClientBus, event: Event[Any], attempt: int, lease: str, until: float
    ) -> None:
        self.event = event
        self.attempt = attempt
        self.lease = lease
        self.until = until
        """The loop's time at which the lease runs out, as far as known here."""
        self.ended = Signal()
        self.done = False
        self._bus = bus

    async def ack(self, *, publish: Sequence[Event[Any]] = ()) -> None:
        await self._bus.ack([self], publish=publish)

    async def nack(self, *, delay: float = 0.0, reason: str = "") -> None:
        request = protocol.Nack(lease=self.lease, delay_ms=_milliseconds(delay), reason=reason)
        await self._end("nack", request)

    async def defer(self, until: datetime) -> None:
        if until.tzinfo is None:
            raise ValueError("until needs a time zone: datetime.now(UTC) + …")
        await self._end("defer", protocol.Defer(lease=self.lease, until=until))

    async def extend(self, visibility: float) -> None:
        request = protocol.Extend(lease=self.lease, visibility_ms=_milliseconds(visibility))
        await self._bus.call("extend", request)
        self.until = asyncio.get_running_loop().time() + visibility

    async def _end(self, verb: str, request: protocol.Request) -> None:
        try:
            await self._bus.call(verb, request)
        except StaleLease:
            self.finish()
            raise
        self.finish()

    def finish(self) -> None:
        """It is off this process's hands."""
        self.done = True
        self.ended.set()


class Member(Consumer):
    """Leases on demand: nothing is taken from the others before somebody here asks for it."""

    def __init__(
        self,
        bus: ClientBus,
        group: str,
        types: list[str],
        max_leases: int,
        visibility: float,
        start: Start,
    ) -> None:
        self._bus = bus
        self._group = group
        self._types = types
        self._max = max(1, max_leases)
        self._visibility = visibility
        self._start: Start = start
        self._ready: deque[Leased] = deque()
        self._out: dict[str, Leased] = {}
        self._fetch: asyncio.Task[None] | None = None
        self._request = b""
        self._failure: BusError | None = None
        self._signal = Signal()
        self._callers = 0
        self._open = False

    async def __aenter__(self) -> Self:
        if self._open:
            raise Closed("this consumer was entered before: make a new one")
        await self._bus.call("lease", self._ask(0, 0))  # declares the group
        self._open = True
        self._bus.members.add(self)
        return self

    def _ask(self, most: int, wait_ms: int) -> protocol.Lease:
        return protocol.Lease(
            group=self._group,
            types=self._types,
            max=most,
            wait_ms=wait_ms,
            visibility_ms=_milliseconds(self._visibility),
            start=self._start,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        if self._fetch is not None and not self._fetch.done():
            try:
                # The same request id: ends the waiting one, whose answer comes first if it had any.
                body = protocol.encode(self._ask(0, 0))
                await self._bus.link.call("lease", body, 2.0, self._request)
                await asyncio.wait([self._fetch], timeout=1.0)
            except BusError as e:
                _log.info("the wait for a lease could not be ended: %s", e)
            self._fetch.cancel()
            await asyncio.gather(self._fetch, return_exceptions=True)
        held = [d for d in (*self._ready, *self._out.values()) if not d.done]
        self._ready.clear()
        self._out.clear()
        await asyncio.gather(*map(self._hand_back, held))

    async def _hand_back(self, delivery: Leased) -> None:
        delivery.finish()
        try:
            body = protocol.encode(protocol.Defer(lease=delivery.lease))
            await self._bus.link.call("defer", body, 2.0)
        except BusError as e:
            _log.info("a lease was not handed back, it will run out: %s", e)

    def end(self) -> None:
        """No further deliveries."""
        self._open = False
        self._bus.members.discard(self)
        self._signal.close()

    async def get(self, timeout: float | None = None) -> Delivery:
        self._callers += 1
        try:
            return await self._get(timeout)
        finally:
            self._callers -= 1

    async def _get(self, timeout: float | None) -> Delivery:
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        while True:
            if not self._open:
                raise Closed("the consumer is closed")
            self._drop_lapsed(loop.time())
            if self._ready:
                delivery = self._ready.popleft()
                self._out[delivery.lease] = delivery
                delivery.ended = self._signal
                return delivery
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if len(self._out) < self._max and (self._fetch is None or self._fetch.done()):
                self._fetch = asyncio.create_task(self._lease(), name=f"lease {self._group}")
            left = None if end is None else end - loop.time()
            if left is not None and left <= 0:
                raise TimeoutError(f"no delivery for {self._group} within {timeout} s")
            lapse = min((d.until for d in self._out.values()), default=None)
            step = None if lapse is None else max(0.01, lapse - loop.time())
            try:
                await self._signal.wait(
                    min((x for x in (left, step) if x is not None), default=None)
                )
            except TimeoutError:
                continue

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        while True:
            try:
                delivery = await self.get()
            except Closed:
                return
            yield delivery

    def _drop_lapsed(self, now: float) -> None:
        for lease, delivery in list(self._out.items()):
            if delivery.done or delivery.until <= now:
                del self._out[lease]
        while self._ready and self._ready[0].until <= now:
            self._ready.popleft()

    async def _lease(self) -> None:
        loop = asyncio.get_running_loop()
        delay = 0.1
        while self._open:
            self._request = self._bus.link.new_request()
            body = protocol.encode(self._ask(self._max - len(self._out), WAIT_MS))
            asked = loop.time()
            try:
                answer = await self._bus.link.call(
                    "lease", body, WAIT_MS / 1000 + self._bus.patience, self._request
                )
            except Unreachable as e:
                _log.warning("no lease for %s, trying again: %s", self._group, e)
            except Closed as e:
                self._fail(e)
                return
            except Refused as e:
                if e.code not in ("disk_full", "read_only", "damaged", "overloaded"):
                    self._fail(e)
                    return
                _log.warning("no lease for %s, trying again: %s", self._group, e)
            else:
                delay = 0.1
                since = max(asked, loop.time() - min(ON_ITS_WAY, self._visibility / 4))
                if await self._take(answer, since) or not self._callers:
                    return
                continue
            await asyncio.sleep(delay)
            delay = min(2 * delay, 5.0)

    def _fail(self, error: BusError) -> None:
        self._failure = error
        self._signal.set()

    async def _take(self, answer: bytes, since: float) -> bool:
        granted = msgspec.json.decode(answer, type=protocol.Deliveries).deliveries
        bad = []
        for item in granted:
            try:
                event = schemas.decode(bytes(item.event))
            except schemas.SchemaError as e:
                bad.append((item.lease, str(e)))
                continue
            self._ready.append(
                Leased(self._bus, event, item.attempt, item.lease, since + self._visibility)
            )
        # What nobody asks for goes back before its lease runs out, soon if nobody waits any more.
        patience = self._visibility / 2
        asyncio.get_running_loop().call_later(
            patience if self._callers else min(IDLE, patience), self._put_back, list(self._ready)
        )
        self._signal.set()
        for lease, reason in bad:  # no later delivery would decode either
            self._bus.refused += 1
            try:
                await self._bus.call("nack", protocol.Nack(lease=lease, reason=reason, dead=True))
            except BusError as e:
                _log.warning("what cannot be decoded comes again: %s", e)
        return bool(self._ready)

    def _put_back(self, deliveries: Sequence[Leased]) -> None:
        unclaimed = [delivery for delivery in deliveries if delivery in self._ready]
        for delivery in unclaimed:
            self._ready.remove(delivery)
            self._bus.background(self._hand_back(delivery))


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))
