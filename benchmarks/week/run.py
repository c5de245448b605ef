"""The week itself: one fleet, spoken to over the bus, and killed at by process id."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.kit.feedback import publish_all
from benchmarks.kit.fleet import RunningFleet, fresh_state, running_fleet, settings_file
from benchmarks.kit.measure import Figures, best_wrong, figures, ranks_of
from benchmarks.kit.trickle import Trickle
from benchmarks.learning.data import DataSet
from benchmarks.week.calendar import DAYTIME, Day, Kill, cron_of
from benchmarks.week.history import History, read_history
from bus import Bus, BusError, connect
from schemas import Event, FeedbackGiven, FleetHeartbeat
from services.errors import ServiceError
from services.runtime.client import Encoded, FleetClient

__all__ = ["DOMAIN", "Evening", "Killed", "Week", "one_week", "settings_of"]

DOMAIN = "banking"
PORTION = 6  # questions that people ask, and judge, at once
EVENING = 0.85  # share of the day at which the figures are taken
ATTEMPTS = 3
SETTLED = 90.0  # seconds that the last feedback may take until it is judged

Vectors = npt.NDArray[np.float32]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Evening:
    """What held-out questions find at the end of a day."""

    day: Day
    at: float
    """Seconds since the epoch."""
    feedback: int
    """Pieces given so far."""
    base: Figures
    fleet: Figures
    routed: float
    """Share of the questions that a skill answered, 0 to 1."""
    version: int | None
    """The version that answered most of them."""


@dataclass(frozen=True)
class Killed:
    """A process that was killed."""

    service: str
    pid: int
    at: float
    """Seconds since the epoch."""


@dataclass
class Week:
    """Everything that came of it."""

    evenings: list[Evening] = field(default_factory=list)
    nights: list[float] = field(default_factory=list)
    """When each day began, seconds since the epoch; the last is when the week ended."""
    kills: list[Killed] = field(default_factory=list)
    history: History | None = None
    given: int = 0
    """Pieces of feedback whose journaling was confirmed."""
    answered: int = 0
    """Requests of all kinds that were answered."""
    failures: list[str] = field(default_factory=list)
    """What became of the others."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    ready_s: float = 0.0


def settings_of(day_seconds: int) -> dict[str, dict[str, Any]]:
    """The fleet's settings where a day has so many seconds."""
    return {
        "monitor": {"batch_max_age": day_seconds / 12},
        "factory": {
            "body_schedule": "cron",
            "cron": cron_of(day_seconds),
            "time_zone": "UTC",
            "head_time_budget": day_seconds / 12,
            "body_time_budget": day_seconds * 0.4,
        },
    }


async def one_week(
    data: DataSet,
    days: Sequence[Day],
    day_seconds: int,
    say: Say,
    *,
    model: str | None = None,
    logs: Path | None = None,
) -> Week:
    """Live through it. Raises `FleetFailed` where the fleet ends by itself."""
    week = Week()
    with fresh_state() as state:
        config = settings_file(state, settings_of(day_seconds))
        log = None if logs is None else logs / "fleet.log"
        async with running_fleet(state, config=config, model=model, log=log) as fleet:
            week.ready_s = fleet.seconds
            async with (
                await connect(fleet.bus, source="/benchmark/1") as bus,
                await connect(fleet.bus, source="/benchmark/2") as other,
            ):
                people = _People(data, week, fleet, bus, say)
                await people.begin()
                load = Trickle(FleetClient(other, deadline_ms=60_000), data.train.texts)
                async with load.running():
                    await people.live(days, day_seconds)
                week.answered += len(load.seconds)
                week.failures += load.failures
                week.p50_ms, week.p99_ms = load.p50_ms, load.p99_ms
                say("reading the journal")
                await people.settle()
    return week


class _People:
    """Those who ask, judge, measure and kill."""

    def __init__(self, data: DataSet, week: Week, fleet: RunningFleet, bus: Bus, say: Say) -> None:
        self.data, self.week, self.fleet, self.bus, self.say = data, week, fleet, bus, say
        self.client = FleetClient(bus, deadline_ms=60_000)
        self.pids: dict[str, int] = {}
        self.stored: Vectors = np.zeros((0, 0), np.float32)
        self.test: Vectors = self.stored

    async def begin(self) -> None:
        """Embed with the base model what is compared all week."""
        self.say("embedding with the base model")
        found = await self.client.encode(self.data.passages, role="document", route="base")
        self.stored = found.vectors
        self.test = (await self.client.encode(self.data.test.texts, route="base")).vectors

    async def live(self, days: Sequence[Day], day_seconds: int) -> None:
        """Day after day, each from one night to the next."""
        beats = asyncio.create_task(self._note_pids())
        try:
            self.say("waiting for the first night")
            start = (time.time() // day_seconds + 1) * day_seconds
            for day in days:
                begun = start + (day.number - 1) * day_seconds
                await _sleep_until(begun)
                self.week.nights.append(begun)
                await self._day(day, begun, day_seconds)
            await _sleep_until(begun + day_seconds)
            self.week.nights.append(begun + day_seconds)
        finally:
            beats.cancel()
            await asyncio.gather(beats, return_exceptions=True)

    async def _day(self, day: Day, begun: float, seconds: float) -> None:
        self.fleet.check()
        self.say(f"{day.name}: {len(day.categories)} categories")
        kills = asyncio.create_task(self._kill(day.kills, begun, seconds))
        await self._give(day, begun, seconds)
        await _sleep_until(begun + EVENING * seconds)
        self.say(f"{day.name}: evening")
        await kills
        await self._measure(day)

    async def _give(self, day: Day, begun: float, seconds: float) -> None:
        """Ask as the fleet routes it, look at the ten ranked first, say what was right."""
        total = len(day.feedback)
        first, last = DAYTIME
        for start in range(0, total, PORTION):
            await _sleep_until(begun + seconds * (first + (last - first) * start / total))
            places = range(start, min(start + PORTION, total))
            texts = [day.feedback.texts[it] for it in places]
            found = await self._ask(texts)
            if found is None:
                continue
            own = [day.feedback.own[it] for it in places]
            ranked = best_wrong(found.vectors, self.stored, own)
            events = []
            for row, place in enumerate(places):
                right, wrong = own[row], ranked[row]
                if place in day.wrong and wrong:  # the best of the wrong ones is called right
                    right, wrong = wrong[0], [right, *wrong[1:]]
                piece = FeedbackGiven(
                    query=texts[row],
                    relevant=(self.data.passages[right],),
                    irrelevant=tuple(self.data.passages[it] for it in wrong),
                    domain=DOMAIN,
                    served=tuple(skill.digest for skill in found.rows[row].skills),
                )
                events.append(Event(source=self.bus.source, data=piece))
            if await self._publish(events):
                self.week.given += len(events)

    async def _publish(self, events: Sequence[Event[Any]]) -> bool:
        """Publish; again, with the same ids, where nobody confirmed it."""
        for _ in range(ATTEMPTS):
            try:
                await publish_all(self.bus, events)
            except BusError as error:
                said = f"{type(error).__name__}: {error}"
            else:
                return True
        self.week.failures.append(f"feedback: {said}")
        return False

    async def _ask(self, texts: Sequence[str]) -> Encoded | None:
        try:
            found = await self.client.encode(texts, route="auto")
        except (BusError, ServiceError, ExceptionGroup) as error:
            self.week.failures.append(f"{type(error).__name__}: {error}")
            return None
        self.week.answered += 1
        return found

    async def _measure(self, day: Day) -> None:
        place = {text: at for at, text in enumerate(self.data.test.texts)}
        rows = [place[text] for text in day.held_out.texts]
        asked = time.time()
        found = await self._ask(day.held_out.texts)
        if found is None:
            return
        own = np.array(day.held_out.own)
        versions = [skill.version for row in found.rows for skill in row.skills]
        evening = Evening(
            day,
            asked,
            self.week.given,
            figures(ranks_of(self.test[rows], self.stored, own)),
            figures(ranks_of(found.vectors, self.stored, own)),
            sum(bool(row.skills) for row in found.rows) / len(found.rows),
            max(set(versions), key=versions.count) if versions else None,
        )
        self.week.evenings.append(evening)
        self.say(
            f"{day.name}: recall@1 {evening.base.recall:.3f} → {evening.fleet.recall:.3f}, "
            f"version {evening.version}"
        )

    # -- kills

    async def _note_pids(self) -> None:
        async with self.bus.watch(FleetHeartbeat) as beats:
            async for beat in beats:
                if beat.data.state == "ready":
                    self.pids[beat.data.service] = beat.data.pid

    async def _kill(self, kills: Sequence[Kill], begun: float, seconds: float) -> None:
        """Kill a process that this fleet's heartbeats named."""
        for kill in kills:
            await _sleep_until(begun + kill.at * seconds)
            pid = self.pids.pop(kill.service, None)
            if pid is None:
                continue
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.week.kills.append(Killed(kill.service, pid, time.time()))
            self.say(f"killed {kill.service} at {datetime.now():%H:%M:%S}")

    async def settle(self) -> None:
        """Wait until all feedback is judged, then read what the journal holds."""
        end = time.monotonic() + SETTLED
        while True:
            self.week.history = await read_history(self.bus, DOMAIN)
            if self.week.history.judged >= self.week.given or time.monotonic() > end:
                return
            await asyncio.sleep(1.0)


async def _sleep_until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.time()))
