"""Two processes on one bus never are the same one: who comes second leaves, and says why.

Events go to a process by its name, so of two that bear one name both would answer. And some
services own what there must be one of: two of them would share the events of their group, and each
would know half. On one machine the lock of the state folder sees to it; on several the heartbeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, NamedTuple

from schemas import Event, FleetHeartbeat, now
from services.errors import DuplicateError
from services.runtime.service import Service
from services.runtime.siblings import AT_WORK

__all__ = ["Namesakes", "host_name", "new_life"]

ECHO: Final = 2.0
"""Seconds at most until a process hears what it said itself."""

ANSWER: Final = 0.25
"""Seconds from then on within which who is there already has answered."""

DOUBTFUL: Final = 2
"""Somebody whose clock says that it speaks of before our start lives, where so many times the next
heartbeat comes as much later as it says. The last words of a process that has ended may be many, of
a server that stood still and has passed on what it held; but they come all at once."""

APART, LATE = 1.0, 0.5
"""Seconds that two heartbeats are apart at least for that, and by which one may be late."""


def host_name() -> str:
    """What this machine calls itself."""
    return socket.gethostname()


def new_life() -> str:
    """A name for one life of a process: who starts later has a larger one."""
    return f"{time.time_ns():020d}-{secrets.token_hex(4)}"


class _Heard(NamedTuple):
    """The last heartbeat of one life."""

    said: datetime
    at: float
    """When it came, by the clock here."""
    in_step: int = 0
    """How often one came as much after the one before as it was said after it."""

    @classmethod
    def of(cls, said: datetime, at: float, before: _Heard | None) -> _Heard:
        if before is None:
            return cls(said, at)
        passed = at - before.at
        late = passed - (said - before.said).total_seconds()
        return cls(said, at, before.in_step + (passed >= APART and abs(late) <= LATE))


class Namesakes:
    """Hears the heartbeats of this process's own service."""

    def __init__(
        self,
        service: Service,
        life: str,
        state: Callable[[], str],
        answer: Callable[[], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`state` is this process's own, `answer` says a heartbeat at once; `clock` in seconds."""
        self._service = service
        self._life = life
        self._state = state
        self._answer = answer
        self._clock = clock
        self._began = now()
        self._heard: dict[str, _Heard] = {}
        self._echo = asyncio.Event()

    async def hear(self, event: Event[FleetHeartbeat]) -> None:
        """Greet who starts, and leave where somebody is what this process would be."""
        beat = event.data
        if beat.service != self._service.name or beat.life is None:
            return
        if beat.life == self._life:
            self._echo.set()
            return
        if beat.state == "stopped":
            self._heard.pop(beat.life, None)
            return
        before = self._heard.get(beat.life)
        heard = self._heard[beat.life] = _Heard.of(event.time, self._clock(), before)
        if before is None and beat.state == "starting":
            await self._answer()  # it need not wait to learn who is there
        alive = event.time >= self._began or heard.in_step >= DOUBTFUL
        if alive and self._goes_before(beat) and not self._service.failure.done():
            why = self._why(beat)
            if why is not None:
                self._service.failure.set_exception(DuplicateError(why))

    async def heard(self) -> None:
        """Return once somebody who is there already would have been heard; raises `DuplicateError`
        where there is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ECHO):
                await self._echo.wait()
        await asyncio.wait({self._service.failure}, timeout=ANSWER)
        if self._service.failure.done():
            self._service.failure.result()

    def _goes_before(self, beat: FleetHeartbeat) -> bool:
        """Who is at work goes before who starts, among equals who started first."""
        own, other = self._state(), beat.state
        if not {own, other} <= {"starting", *AT_WORK}:
            return False  # one of the two is leaving
        if (own in AT_WORK) != (other in AT_WORK):
            return other in AT_WORK
        return (beat.life or "") < self._life

    def _why(self, beat: FleetHeartbeat) -> str | None:
        """What is wrong with two of them, in one sentence; None: nothing."""
        service = self._service
        where = f"process {beat.pid} of {beat.host or 'another machine'}"
        if beat.instance == service.instance:
            return (
                f"{service.address} is there already, {where}: two of one name would both be sent "
                "its work; give each machine a name of its own (fleet.host), or this process "
                "another --instance"
            )
        if service.single:
            return (
                f"there is one {service.name} on this bus already, {where}, and what it owns cannot"
                " be shared; leave it out here (fleet.services)"
            )
        return None
