"""The two lanes: a head in training, and beside it a body; who goes first, who gives way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import structlog

from schemas import TrainingRequested
from services.factory.schedule import body_due
from services.factory.tasks import Owed, Phase, TaskStore
from services.runtime.settings import FactorySettings

__all__ = ["LONGEST", "PATIENCE", "POSTPONED", "SURPASSED", "Lanes", "Next"]

POSTPONED = 20.0
"""Seconds within which a task with more rows takes the place of the one whose head is in training.

Feedback comes in bursts. A head of its first part would be outdated when it is done, and, once it
is served, the better head of the whole burst must beat it beyond doubt to take its place."""

SURPASSED = 1.5
"""A task with so many times the rows takes its place at any time; the rows grow, so none waits for
ever."""

PATIENCE = 2.0
"""Heads wait for a body of their skill for so many times its time budget: it is a plan, and on a
busy machine it takes longer."""


LONGEST = 4.0
"""The same for a skill whose body was outrun so: what takes its child longer is ended anyway."""

_log = structlog.get_logger(service="factory")


class Next(NamedTuple):
    """What to do with an idle lane."""

    owed: Owed | None
    """The phase to begin now."""
    look: float | None = None
    """When to look again, seconds since the epoch; None: when something changes."""


class Lanes:
    """What is in training now. Who waits for whom is told in `schedule.body_due`."""

    def __init__(
        self,
        tasks: TaskStore,
        settings: FactorySettings,
        may_begin: Callable[[str], bool] = lambda skill: True,
    ) -> None:
        """`may_begin`: whether this factory trains a skill, or another does."""
        self._tasks = tasks
        self._may_begin = may_begin
        self._settings = settings
        self._lanes: dict[Phase, tuple[Owed, asyncio.Task[None]]] = {}
        self._heads: dict[str, float] = {}
        """When a skill's head was first begun that is not trained to its end yet, monotonic."""
        self._bodies: dict[str, float] = {}
        """When each body, by its key, was first begun; seconds since the epoch."""
        self._outrun: set[str] = set()
        """Skills whose last body took longer than heads waited for it."""
        self._barred: set[str] = set()
        """Skills that nothing is begun of."""
        self._stopped = False

    def enter(self, owed: Owed, work: asyncio.Task[None]) -> None:
        """A phase is in training."""
        self._lanes[owed.phase] = (owed, work)
        if owed.phase == "head":
            self._heads.setdefault(owed.task.skill, time.monotonic())
        else:
            self._bodies.setdefault(owed.key, time.time())

    def leave(self, owed: Owed) -> bool:
        """The task that calls this is at its end; False where another took its place before."""
        lane = self._lanes.get(owed.phase)
        if lane is None or lane[1] is not asyncio.current_task():
            return False
        del self._lanes[owed.phase]
        if owed.phase == "head":
            self._heads.pop(owed.task.skill, None)
        elif not self._is_late(owed):
            self._outrun.discard(owed.task.skill)
        return True

    @property
    def running(self) -> list[tuple[int, Phase]]:
        """Number of the task, and phase, of what is in training."""
        return [(owed.number, phase) for phase, (owed, _) in self._lanes.items()]

    def __contains__(self, phase: Phase) -> bool:
        return phase in self._lanes

    async def stop(self) -> None:
        """End what is in training, and begin nothing more; it is owed still."""
        self._stopped = True
        working = [work for _, work in self._lanes.values()]
        for work in working:
            work.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    @asynccontextmanager
    async def without(self, skill: str) -> AsyncIterator[None]:
        """Within the block nothing of a skill is in training; what was is ended."""
        self._barred.add(skill)
        try:
            ended = [it for it in self._lanes.items() if it[1][0].task.skill == skill]
            for phase, (_, work) in ended:
                del self._lanes[phase]
                work.cancel()
            await asyncio.gather(*(work for _, (_, work) in ended), return_exceptions=True)
            self._heads.pop(skill, None)
            self._outrun.discard(skill)
            yield
        finally:
            self._barred.discard(skill)

    # -- giving way

    def surpass(self, task: TrainingRequested) -> None:
        """End the training of a head that a larger task of the same skill outdates."""
        lane = self._lanes.get("head")
        if lane is None or lane[0].task.skill != task.skill or lane[0].task.task_id == task.task_id:
            return
        rows, begun = lane[0].task.dataset.rows, self._heads.get(task.skill, 0.0)
        early = task.dataset.rows > rows and time.monotonic() - begun < POSTPONED
        if early or task.dataset.rows >= SURPASSED * rows:
            del self._lanes["head"]
            lane[1].cancel()

    def let_go(self, owed: Owed) -> None:
        """End the training of a phase that is owed no more."""
        lane = self._lanes.get(owed.phase)
        if lane is not None and lane[0].key == owed.key:
            del self._lanes[owed.phase]
            lane[1].cancel()

    @property
    def skills(self) -> frozenset[str]:
        """What is in training."""
        return frozenset(owed.task.skill for owed, _ in self._lanes.values())

    def outdate(self, head: Owed) -> None:
        """A head was published: bodies of older tasks of its skill would be judged in vain."""
        for body in self._tasks.owed(head.task.skill):
            if body.phase != "body" or body.number >= head.number:
                continue
            lane = self._lanes.get("body")
            if lane is not None and lane[0].key == body.key:
                del self._lanes["body"]
                lane[1].cancel()
                if self._is_late(body):
                    self._outrun.add(body.task.skill)
                    _log.warning(
                        "a body took far longer than factory.body_time_budget and was given up; "
                        "heads wait longer for the next one",
                        skill=body.task.skill,
                        budget=self._settings.body_time_budget,
                    )
            self._tasks.supersede(body)

    def _is_late(self, body: Owed) -> bool:
        """It is in training for longer than heads would have waited."""
        taken = time.time() - self._bodies.get(body.key, time.time())
        return taken >= PATIENCE * self._settings.body_time_budget

    # -- who is next

    def next(self, phase: Phase, now: float) -> Next:
        """What an idle lane begins at `now`, seconds since the epoch."""
        barred = {it for it in self._tasks.skills() if not self._may_begin(it)} | self._barred
        waiting = [owed for owed in self._tasks.owed() if owed.task.skill not in barred]
        known = {owed.key for owed in waiting}
        self._bodies = {key: at for key, at in self._bodies.items() if key in known}
        if self._stopped or phase in self._lanes:
            return Next(None)
        firm = [owed for owed in waiting if owed.phase == "body" and self.is_firm(owed, now)]
        ends = self._turns(waiting, firm, now)
        heads = [it for it in waiting if it.phase == "head"]
        if phase == "head":
            return _soonest(heads, now, ends)
        bodies = [it for it in waiting if it.phase == "body"]
        busy = self._lanes.get("head")
        if busy is None and not heads:
            return _soonest(bodies, now, {})
        # The others begin where nothing else waits; the end of the head wakes the schedule.
        first = [it for it in firm if busy is None or busy[0].task.skill != it.task.skill]
        return _soonest([it for it in first if not _waits(it, heads, ends)], now, {})

    def is_firm(self, body: Owed, now: float) -> bool:
        """The body gives way no more."""
        due = body_due(self._settings, body.since, body.arrived)
        return due is not None and due.last <= now

    def _turns(self, waiting: list[Owed], firm: list[Owed], now: float) -> dict[int, float]:
        """Heads, by their task's number, that wait for an older body, and till when they do."""
        ends: dict[int, float] = {}
        for body in firm:
            patience = LONGEST if body.task.skill in self._outrun else PATIENCE
            limit = patience * self._settings.body_time_budget
            end = self._bodies.get(body.key, now) + limit
            for owed in waiting:
                mine = owed.phase == "head" and owed.task.skill == body.task.skill
                if mine and owed.number > body.number and end > now:
                    ends[owed.number] = end
        return ends


def _waits(body: Owed, heads: list[Owed], ends: dict[int, float]) -> bool:
    """A head of the skill goes before the body."""
    return any(it.task.skill == body.task.skill and it.number not in ends for it in heads)


def _soonest(found: list[Owed], now: float, ends: dict[int, float]) -> Next:
    """The first that is due, or when one will be."""
    times = {owed.key: max(owed.due, ends.get(owed.number, owed.due)) for owed in found}
    mine = sorted(found, key=lambda owed: times[owed.key])
    if not mine:
        return Next(None)
    if times[mine[0].key] > now:
        return Next(None, times[mine[0].key])
    return Next(mine[0])
