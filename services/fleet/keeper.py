"""Keeps one process running: starts it, restarts it when it fails, gives up when that is no use."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, Protocol

from services.errors import GaveUpError, RefusedError
from services.fleet.beats import Beat
from services.fleet.child import Child
from services.fleet.plan import Part
from services.fleet.restart import Failures, RestartPolicy
from services.runtime.settings import FleetSettings

__all__ = ["HOPELESS", "Keeper", "Reporter"]

HOPELESS = 2
"""The exit code of a process that refuses its arguments or settings: a restart cannot mend it."""

_FAILURES_BEFORE_READY = 2
"""What never worked since the fleet was started is not tried as often as what did."""

_TICKS = 0.5, 2.0  # seconds between two looks at a process that may have fallen silent
_SHARE = 0.05  # of how long it may be silent, within those


class Reporter(Protocol):
    """Where the supervisor's words and its processes' lines go."""

    def line(self, part: Part, text: str) -> None:
        """A line that a process wrote."""

    def say(self, text: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """A sentence of the supervisor's own."""


class Keeper:
    """One part of the plan, whatever process runs it at the moment."""

    def __init__(
        self,
        part: Part,
        settings: FleetSettings,
        reporter: Reporter,
        *,
        quiet_for: Callable[[float], float],
        clock: Callable[[], float],
        chance: random.Random,
    ) -> None:
        """`quiet_for(t)`: for how long, after `t`, this part was silent while others spoke."""
        self.part = part
        self.child: Child | None = None
        self.state = "down"
        self.restarts = 0
        self.ready = asyncio.Event()
        """Set for good once the part was ready for the first time."""
        self.dismissed = asyncio.Event()
        """Set once nobody wants the part back when it has ended."""
        self._settings = settings
        self._reporter = reporter
        self._quiet_for = quiet_for
        self._clock = clock
        self._failures = Failures(RestartPolicy.of(settings), clock=clock, chance=chance)
        self._heard = clock()

    def hear(self, beat: Beat) -> None:
        """Take note of a beat, if it is this part's."""
        if self.child is None or beat.pid != self.child.pid:
            return
        self._heard = self._clock()
        if beat.state == "ready" and self.state != "ready":
            self._reporter.say(f"{self.part.name} is ready (process {beat.pid}).")
            self.ready.set()
        self.state = beat.state

    async def run(self) -> None:
        """Keep the process running until it is dismissed; raises `GaveUpError`."""
        while not self.dismissed.is_set():
            child = await self._start()
            why = await self._watch(child)
            self.child, self.state = None, "down"
            if self.dismissed.is_set():
                return
            delay = self._next(child, why)
            self._reporter.say(
                f"{self.part.name} {why}; starting it again in {delay:.1f} s.", "warning"
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self.dismissed.wait()
            self.restarts += 1

    async def stop(self, grace: float) -> None:
        """End the process in order, and with force after `grace` seconds."""
        self.dismissed.set()
        if self.child is not None:
            await self.child.stop(grace)
        self.child, self.state = None, "down"

    def kill(self) -> None:
        """End the process group at once."""
        self.dismissed.set()
        if self.child is not None:
            self.child.kill()

    async def _start(self) -> Child:
        self.state = "starting"
        self._heard = self._clock()
        try:
            self.child = await Child.start(self.part, self._reporter.line)
        except OSError as error:
            raise GaveUpError(f"{self.part.name} cannot be started: {error.strerror}.") from error
        if self.dismissed.is_set():  # while it was being started
            self.child.kill()
        return self.child

    async def _watch(self, child: Child) -> str:
        """Wait until the process has ended, by force where it hangs; says how, in words."""
        ending = asyncio.create_task(child.wait())
        forced = ""
        while not ending.done():
            await asyncio.wait({ending}, timeout=self._tick())
            limit = self._hangs()
            if limit and not forced and not ending.done():
                forced = limit
                child.kill()
        code = ending.result()
        if forced:
            return forced
        return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def _tick(self) -> float:
        starting = self.state == "starting"
        limit = self._settings.start_timeout if starting else self._settings.silence
        return min(max(_SHARE * limit, _TICKS[0]), _TICKS[1])

    def _hangs(self) -> str:
        """Why the process counts as hanging, or nothing."""
        if self.state in ("draining", "stopped") or self.dismissed.is_set():
            return ""
        if self.state == "starting":
            limit = self._settings.start_timeout
            late = self._clock() - self._heard > limit
            return f"was not ready after {limit:g} s" if late else ""
        limit = self._settings.silence
        silent = limit > 0 and self._quiet_for(self._heard) > limit
        return f"was silent for {limit:g} s" if silent else ""

    def _next(self, child: Child, why: str) -> float:
        """The wait before the next start; raises `GaveUpError` where there is none."""
        delay = self._failures.record()
        last = tuple(child.last_lines)
        if why.endswith(f"exit code {HOPELESS}"):
            if last and not self.ready.is_set():
                words = last[-1].removeprefix(f"{self.part.service}: ")
                raise RefusedError(f"{self.part.name} refused to start: {words}", last[:-1])
            raise GaveUpError(f"{self.part.name} {why}: starting it again would not help.", last)
        never = not self.ready.is_set() and len(self._failures) >= _FAILURES_BEFORE_READY
        if delay is None or never:
            times = f"{len(self._failures)} times" if len(self._failures) > 1 else "at once"
            raise GaveUpError(f"{self.part.name} failed {times}; at last it {why}.", last)
        return delay
