"""Takes deliveries by the handful: what is done for many at once costs little more than for one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from bus import (
    BusError,
    Closed,
    Consumer,
    Damaged,
    Delivery,
    DiskFull,
    Kinds,
    ReadOnly,
    RequestTimeout,
    StaleLease,
    Unreachable,
)
from lora.errors import StoreAwayError, StoreRefusedError
from schemas import now
from services.errors import EncodeFailedError, ServiceError
from services.runtime.service import Service
from services.runtime.store import heed_damage
from services.runtime.tracing import following

__all__ = ["Handfuls", "is_passing"]

VISIBILITY = 30.0
"""Seconds until what a killed process held is delivered again; kept up while it lives."""

PATIENCE = 2.0
"""Seconds until an event is tried again that the fleet could not embed now."""

GATHERING = 0.01
"""Seconds that a handful waits for one more."""

MAX_BYTES = 4 << 20

_RETRY_DELAYS = (0.5, 2.0, 5.0, 15.0)
_PASSING = frozenset({"overloaded", "deadline", "internal"})


def is_passing(error: BaseException) -> bool:
    """The fleet, or a store that it keeps things in, did not answer now; it may later."""
    if isinstance(error, EncodeFailedError):
        return error.code in _PASSING
    # A store that refuses us is set up wrong: somebody mends that, and nothing is lost meanwhile.
    store = StoreAwayError | StoreRefusedError
    return isinstance(error, RequestTimeout | Unreachable | DiskFull | ReadOnly | Damaged | store)


class Handfuls:
    """A member of a group, mostly that of the service's name; the handler ends its deliveries.

    Where a handler raises, nothing of the handful may have been acknowledged: an error that will
    pass defers all of it, uncounted; any other one is found by handling each by itself, and only
    the guilty one is nacked with its reason, with a growing delay.
    """

    def __init__(
        self,
        service: Service,
        kinds: Kinds,
        handler: Callable[[Sequence[Delivery]], Awaitable[None]],
        *,
        most: int = 64,
        bytes_of: Callable[[Delivery], int] = lambda delivery: 0,
        group: str | None = None,
    ) -> None:
        self._service = service
        self._handler = handler
        self._most = most
        self._bytes_of = bytes_of
        self._consumer = service.bus.consume(
            group or service.name, kinds, max_leases=most, visibility=VISIBILITY
        )

    async def start(self) -> None:
        """Take deliveries in the background; returns once the group is joined."""
        live: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self._service.spawn(self._loop(self._consumer, live), f"take {self._service.name}")
        await asyncio.wait({task, live}, return_when=asyncio.FIRST_COMPLETED)
        if not live.done():
            live.cancel()
            await task

    async def _loop(self, consumer: Consumer, live: asyncio.Future[None]) -> None:
        async with consumer as deliveries:
            live.set_result(None)
            while True:
                handful = await self._gather(deliveries)
                async with _kept(handful):
                    await self._take(handful)

    async def _gather(self, deliveries: Consumer) -> list[Delivery]:
        handful = [await deliveries.get()]
        size = self._bytes_of(handful[0])
        with contextlib.suppress(TimeoutError):
            while len(handful) < self._most and size < MAX_BYTES:
                handful.append(await deliveries.get(timeout=GATHERING))
                size += self._bytes_of(handful[-1])
        return handful

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        if len(deliveries) > 1:  # what is said of many belongs to none of them
            await self._try(deliveries)
            return
        with following(deliveries[0].event):
            await self._try(deliveries)

    async def _try(self, deliveries: Sequence[Delivery]) -> None:
        log = self._service.log
        try:
            await self._handler(deliveries)
        except Closed:
            raise
        except Exception as error:
            heed_damage(error)
            if is_passing(error):
                first = deliveries[0].event.id
                log.info(
                    "the fleet cannot answer now",
                    why=str(error),
                    events=len(deliveries),
                    first=first,
                )
                until = now() + timedelta(seconds=PATIENCE)
                for one in deliveries:
                    with contextlib.suppress(BusError):
                        await one.defer(until)
            elif len(deliveries) > 1:
                for one in deliveries:
                    await self._take([one])
            elif isinstance(error, StaleLease):
                log.warning("lease ran out before the work was done", id=deliveries[0].event.id)
            else:
                expected = isinstance(error, ServiceError | BusError)
                log.warning(
                    "event not handled",
                    id=deliveries[0].event.id,
                    why=str(error),
                    exc_info=not expected,
                )
                await self._failed(deliveries[0], error)

    async def _failed(self, delivery: Delivery, error: Exception) -> None:
        delay = _RETRY_DELAYS[min(delivery.attempt, len(_RETRY_DELAYS)) - 1]
        with contextlib.suppress(BusError):
            await delivery.nack(delay=delay, reason=f"{type(error).__name__}: {error}")


@asynccontextmanager
async def _kept(deliveries: Sequence[Delivery]) -> AsyncIterator[None]:
    """Keep the leases while the block runs."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(VISIBILITY / 3)
            for one in deliveries:
                with contextlib.suppress(BusError):
                    await one.extend(VISIBILITY)

    keeper = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
