"""What every process of the fleet is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import structlog

from bus import Bus, BusError, Closed, Delivery, Kinds, StaleLease, Start
from schemas import Event, FleetHeartbeat, Payload, address_of
from services.runtime.settings import Settings
from services.runtime.state import StateFolder
from services.runtime.store import heed_damage
from services.runtime.tracing import following, here

__all__ = ["Context", "Service"]

RETRY_DELAYS = (0.5, 2.0, 5.0, 15.0)
"""Seconds before an event whose handler failed is delivered again, by attempt."""


@dataclass(frozen=True)
class Context:
    """Where a process stands: its settings, its bus, its folder, its number."""

    settings: Settings
    bus: Bus
    state: StateFolder
    instance: str = "1"


class Service:
    """One process. A subclass overrides `setup` (required work before it is ready) and `drain`."""

    name: ClassVar[str]
    single: ClassVar[bool] = False
    """What it owns cannot be shared: a bus has one process of it."""
    keeps: ClassVar[bool] = False
    """There may be several of it, each with a store that is its alone: no two share a folder."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.bus = context.bus
        self.settings = context.settings
        self.state = context.state
        self.instance = context.instance
        self.source = f"/{self.name}/{context.instance}"
        self.address = address_of(self.source)
        self.log: Any = structlog.get_logger(service=self.name, instance=context.instance)
        self.counters: dict[str, int | float] = {}
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def queue(self) -> int:
        """How much work waits here; shown in heartbeats."""
        return 0

    async def setup(self) -> None:
        """Open the store, rebuild what is needed, listen; the process is ready on return."""

    async def drain(self) -> None:
        """Finish what is in hand, within the grace period; nothing new arrives meanwhile."""

    async def aclose(self) -> None:
        """Cancel what still runs in the background."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self.failure.done():
            self.failure.cancel()

    def event(
        self, data: Payload, *, to: str | None = None, correlation_id: str | None = None
    ) -> Event[Any]:
        """A new event of this process; it belongs to what is being worked on in this task."""
        origin = here()
        return Event(
            data=data,
            source=self.source,
            to=to,
            correlation_id=correlation_id or origin.correlation_id,
            causation_id=origin.causation_id,
            traceparent=origin.traceparent,
        )

    async def say(
        self, data: Payload, *, to: str | None = None, correlation_id: str | None = None
    ) -> None:
        """Publish a new event of this process."""
        await self.bus.publish(self.event(data, to=to, correlation_id=correlation_id))

    async def publish_outbox(self, waiting: Sequence[Event[Any]]) -> bool:
        """Publish what waits in an outbox; False, to be tried again, where the bus is away."""
        try:
            await self.bus.publish(*waiting)
        except Closed:
            raise
        except BusError as error:
            self.log.warning("not published yet", events=len(waiting), why=str(error))
            return False
        return True

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` in the background; if it crashes, so does the process, to be restarted."""
        task = asyncio.create_task(work, name=f"{self.name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None or isinstance(error, Closed):
            return
        if not self.failure.done():
            self.failure.set_exception(error)

    async def listen(
        self,
        kinds: Kinds,
        handler: Callable[[Event[Any]], Awaitable[None]],
        *,
        to: str | None = None,
        after: int | None = None,
    ) -> None:
        """Hand every event of `kinds` to `handler`, one after another; returns once live.

        What the handler says and logs belongs to the event; heartbeats lead to nothing.
        What it raises is logged with the event's id; the next event is heard all the same.
        """
        live: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def loop() -> None:
            async with self.bus.watch(kinds, to=to, after=after) as events:
                live.set_result(None)
                async for event in events:
                    if isinstance(event.data, FleetHeartbeat):
                        if not await heard(event):
                            return
                        continue
                    with following(event):
                        if not await heard(event):
                            return

        async def heard(event: Event[Any]) -> bool:
            try:
                await handler(event)
            except Closed:
                return False
            except Exception:
                self.log.exception("event not handled", type=event.type, id=event.id)
            return True

        await self._until_live(self.spawn(loop(), f"listen {handler.__name__}"), live)

    async def work(
        self,
        group: str,
        kinds: Kinds,
        handler: Callable[[Delivery], Awaitable[None]],
        *,
        max_leases: int = 1,
        visibility: float = 30.0,
        start: Start = "earliest",
    ) -> None:
        """Consume `kinds` as a member of `group`; the handler ends each delivery itself.

        Where a handler raises, the delivery is nacked with a growing delay and the reason.
        """
        live: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def loop() -> None:
            consumer = self.bus.consume(
                group, kinds, max_leases=max_leases, visibility=visibility, start=start
            )
            async with consumer as deliveries:
                live.set_result(None)
                async for delivery in deliveries:
                    with following(delivery.event):
                        await self._handled(delivery, handler)

        await self._until_live(self.spawn(loop(), f"work {handler.__name__}"), live)

    async def _handled(
        self, delivery: Delivery, handler: Callable[[Delivery], Awaitable[None]]
    ) -> None:
        event = delivery.event
        try:
            await handler(delivery)
        except Closed:
            raise
        except StaleLease:
            self.log.warning("lease ran out before the work was done", type=event.type, id=event.id)
        except Exception as error:
            heed_damage(error)
            self.log.exception("event not handled", type=event.type, id=event.id)
            delay = RETRY_DELAYS[min(delivery.attempt, len(RETRY_DELAYS)) - 1]
            try:
                await delivery.nack(delay=delay, reason=f"{type(error).__name__}: {error}")
            except Closed:
                raise
            except BusError as lost:  # a full disk, too: the lease runs out, and it comes again
                self.log.warning("event not handed back", id=event.id, why=str(lost))

    async def _until_live(self, task: asyncio.Task[None], live: asyncio.Future[None]) -> None:
        await asyncio.wait({task, live}, return_when=asyncio.FIRST_COMPLETED)
        if not live.done():
            live.cancel()
            await task
