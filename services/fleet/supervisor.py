"""Starts the parts of a fleet, watches over them, and stops them in reverse order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from services.fleet.beats import Beat, Listen, StopOrder
from services.fleet.keeper import Keeper, Reporter
from services.fleet.plan import Part
from services.runtime.settings import FleetSettings

__all__ = ["Supervisor"]

_LISTEN_AGAIN = 0.5  # seconds


class Supervisor:
    """One fleet. The first part of the plan carries the bus: the others start once it is ready.

    With `own_bus=False` the bus is somebody else's, and all parts start at once.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        settings: FleetSettings,
        *,
        listen: Listen,
        reporter: Reporter,
        own_bus: bool = True,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        self._bases = int(own_bus)
        self._settings = settings
        self._listen = listen
        self._reporter = reporter
        self._clock = clock
        self._last_beat = clock()
        self._stop = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        chance = chance or random.Random()
        self.keepers = tuple(
            Keeper(
                part,
                settings,
                reporter,
                quiet_for=(self._quiet_base if own_bus and part is parts[0] else self._quiet_other),
                clock=clock,
                chance=chance,
            )
            for part in parts
        )

    def stop(self) -> None:
        """Ask for an orderly stop; `run` returns when all is down."""
        self._stop.set()

    def kill(self) -> None:
        """End everything at once."""
        self._stop.set()
        for keeper in self.keepers:
            keeper.kill()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Run the fleet until it is stopped; `on_ready` is called once, when all parts are ready.

        Raises `GaveUpError` if a part failed for good; by then everything is down.
        """
        base, others = self.keepers[: self._bases], self.keepers[self._bases :]
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            self._tasks["beats"] = asyncio.create_task(self._hear(), name="beats")
            for stage in (base, others):
                if stopping.done():
                    return
                for keeper in stage:
                    self._tasks[keeper.part.name] = asyncio.create_task(keeper.run())
                await self._guard(stopping, asyncio.create_task(_all_ready(stage)))
            if stopping.done():
                return
            on_ready()
            await self._guard(stopping, stopping)
        finally:
            stopping.cancel()
            await self._down()

    async def _guard(self, stopping: asyncio.Task[Any], awaited: asyncio.Task[Any]) -> None:
        """Wait for `awaited`, or for the order to stop; raises what a keeper raised meanwhile."""
        try:
            while not stopping.done() and not awaited.done():
                running = {task for task in self._tasks.values() if not task.done()}
                await asyncio.wait(
                    {stopping, awaited, *running}, return_when=asyncio.FIRST_COMPLETED
                )
                self._raise_failures()
        finally:
            awaited.cancel()

    def _raise_failures(self) -> None:
        for task in self._tasks.values():
            if task.done():
                task.result()

    async def _hear(self) -> None:
        """Pass every beat on to its keeper, over one connection after the other."""
        while True:
            try:
                async with self._listen() as beats:
                    async for said in beats:
                        self._take(said)
            except OSError as error:
                if self.keepers[0].ready.is_set():  # before, it is only on its way
                    self._reporter.say(f"The bus does not answer: {error}.", "warning")
            await asyncio.sleep(_LISTEN_AGAIN)

    def _take(self, said: Beat | StopOrder) -> None:
        if isinstance(said, Beat):
            self._last_beat = self._clock()
            for keeper in self.keepers:
                keeper.hear(said)
        elif said.service is None:
            self._reporter.say("Someone on the bus asked the fleet to stop.")
            self.stop()
        else:
            for keeper in self.keepers:
                if keeper.part.service == said.service:
                    keeper.dismissed.set()

    def _quiet_base(self, since: float) -> float:
        """The bus is silent when nothing at all is heard over it."""
        return self._clock() - max(since, self._last_beat)

    def _quiet_other(self, since: float) -> float:
        """While the bus is down nobody can be heard, and nobody is to blame."""
        return self._last_beat - since

    async def _down(self) -> None:
        for keeper in self.keepers:
            keeper.dismissed.set()
        # Service by service, the copies of one together.
        for _, copies in groupby(reversed(self.keepers), key=lambda keeper: keeper.part.service):
            grace = self._settings.stop_grace
            await asyncio.gather(*(keeper.stop(grace) for keeper in copies))
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def _all_ready(keepers: Sequence[Keeper]) -> None:
    for keeper in keepers:
        await keeper.ready.wait()
