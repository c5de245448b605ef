"""One run: a fresh fleet, so many pieces of feedback, the verdicts, the figures after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.kit.feedback import feedback_events, publish_all
from benchmarks.kit.fleet import RunningFleet, fresh_state, running_fleet, settings_file
from benchmarks.kit.loop import Depth, Loop, Task
from benchmarks.kit.measure import Figures, figures, ranks_of
from benchmarks.kit.nats import nats_server
from benchmarks.learning.data import DataSet, Queries
from benchmarks.learning.reference import References, Vectors, references
from bus import Bus, connect
from services.errors import ServiceError
from services.runtime.client import FleetClient

__all__ = ["DOMAIN", "Plan", "Run", "Say", "Transport", "one_run"]

DOMAIN = "banking"
STORE = "nats"
"""Folder of the NATS server, in the fleet's state."""
Say = Callable[[str], None]
Transport = Literal["zeromq", "nats"]
"""What carries the events: our broker, or a NATS server that is started beside the fleet."""


@dataclass(frozen=True)
class Plan:
    """What is the same for every run."""

    settings: dict[str, dict[str, Any]]
    body: bool = True
    limit: float = 1200.0
    """Seconds until a verdict that has not come is given up."""
    model: str | None = None
    workers: int | None = None
    keep: Path | None = None
    """Folder for the fleets' logs; none: they go with the state."""
    bus: Transport = "zeromq"


@dataclass
class Run:
    """What one size and seed gave. Figures are of the whole test set."""

    feedback: int
    seed: int
    bus: Transport = "zeromq"
    error: str | None = None
    ready_s: float = 0.0
    journal_bytes: int | None = None
    """Of the files that keep durable events, once the fleet has stopped."""
    clashes: int = 0
    batches: int = 0
    base: Figures | None = None
    head: Figures | None = None
    """What is served after the verdict on the head: the base where it was refused."""
    final: Figures | None = None
    """What is served in the end, the skill named in the request."""
    auto: Figures | None = None
    routed: float | None = None
    """Share of the test queries that `route: auto` gave to the skill, 0 to 1."""
    head_published: int = 0
    body_published: int = 0
    head_s: float | None = None
    """Seconds from the last piece of feedback to the head's verdict on the last batch: the card
    answers a request that names it, or is refused."""
    body_s: float | None = None
    refusals: list[str] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    """Labels of the last dataset, by where they came from."""
    teacher: str | None = None
    """Why the teacher gave less than it was asked for, when the last dataset was made."""
    requests: int | None = None
    """Requests that the teacher answered, where one was asked."""
    matrix: Figures | None = None
    """The full-rank query matrix, trained on the same feedback."""
    ungated: Figures | None = None
    """A head of the same recipe that passed no gate."""


async def one_run(data: DataSet, plan: Plan, size: int, seed: int, say: Say) -> Run:
    """Never raises for what a fleet can do wrong: the run says it in `error`."""
    run = Run(size, seed, bus=plan.bus)
    given = data.train.sample(size, seed)
    with fresh_state() as state:
        config = settings_file(state, plan.settings)
        log = None if plan.keep is None else plan.keep / f"fleet-{size}-{seed}-{plan.bus}.log"
        try:
            async with (
                _carrier(plan, state) as url,
                running_fleet(
                    state, config=config, model=plan.model, workers=plan.workers, bus=url, log=log
                ) as fleet,
            ):
                run.ready_s = fleet.seconds
                async with await connect(fleet.bus, source="/benchmark/1") as bus:
                    vectors = await _Session(data, plan, run, bus, fleet, say).learn(given)
        except Exception as error:  # shown in the table, and the next run goes on
            run.error = _sentence(error)
            return run
        run.journal_bytes = _kept(state)
    say("the query matrix and a head without a gate")
    try:
        found: References = await asyncio.to_thread(references, data, given, vectors)
        run.matrix, run.ungated = found.matrix, found.head
    except Exception as error:
        run.error = f"the references: {_sentence(error)}"
    return run


@asynccontextmanager
async def _carrier(plan: Plan, state: Path) -> AsyncIterator[str | None]:
    """The URL of a NATS server of this fleet's own; None where the fleet starts our broker."""
    if plan.bus == "zeromq":
        yield None
        return
    with nats_server(state / STORE) as server:
        yield server.url


def _kept(state: Path) -> int:
    """Bytes of the files that keep durable events, of either."""
    files = (*state.glob("journal.sqlite*"), *(state / STORE).rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


class _Session:
    """Speaks to one fleet, over the bus only."""

    def __init__(
        self, data: DataSet, plan: Plan, run: Run, bus: Bus, fleet: RunningFleet, say: Say
    ) -> None:
        self.data, self.plan, self.run = data, plan, run
        self.bus, self.fleet, self.say = bus, fleet, say
        self.client = FleetClient(bus, deadline_ms=120_000)
        self.own = np.array(data.test.own)

    async def learn(self, given: Queries) -> Vectors:
        """Before, the loop, after."""
        data, run = self.data, self.run
        self.say("embedding with the base model")
        stored = await self.client.encode(data.passages, role="document", route="base")
        asked = await self.client.encode(given.texts, route="base")
        test = await self.client.encode(data.test.texts, route="base")
        vectors = Vectors(stored.vectors, asked.vectors, test.vectors)
        run.base = figures(ranks_of(test.vectors, stored.vectors, self.own))
        events = feedback_events(
            self.bus.source,
            DOMAIN,
            given.texts,
            asked.vectors,
            data.passages,
            stored.vectors,
            given.own,
        )
        loop = Loop(self.bus, DOMAIN)
        async with loop.watching():
            await publish_all(self.bus, events)
            start = time.monotonic()
            run.head_s = await self._verdict(loop, "head", len(events), start)
            if self.plan.body:
                run.body_s = await self._verdict(loop, "body", len(events), start)
            await self._after(loop, stored.vectors)
        return vectors

    async def _verdict(self, loop: Loop, depth: Depth, pieces: int, start: float) -> float | None:
        self.say(f"waiting for the verdict on the {depth}")

        def decided() -> bool:
            self.fleet.check()
            return loop.decided(pieces, depth)

        if not await loop.until(decided, self.plan.limit):
            raise TimeoutError(
                f"no verdict on the {depth} after {self.plan.limit:.0f} s: {loop.judged} of "
                f"{pieces} pieces judged, {len(loop.batches)} batches, {len(loop.tasks)} tasks"
            )
        last: Task | None = loop.last_task()
        if last is None:
            return None
        seconds = last.verdicts[depth] - start
        for version in loop.versions:
            if version.depth == depth and version.task_id == last.task_id:  # until it answers
                begun = time.monotonic()
                await self.client.encode(self.data.test.texts[:1], skills=(version.name,))
                seconds += time.monotonic() - begun
        return seconds

    async def _after(self, loop: Loop, stored: npt.NDArray[np.float32]) -> None:
        self.say("measuring after")
        run = self.run
        run.clashes, run.batches = loop.clashes, len(loop.batches)
        if (last := loop.last_task()) is not None:
            run.sources, run.teacher = last.sources, last.teacher
        heads = [it for it in loop.versions if it.depth == "head"]
        bodies = [it for it in loop.versions if it.depth == "body"]
        run.head_published, run.body_published = len(heads), len(bodies)
        run.refusals = [
            it.reason if it.reason.startswith(it.depth) else f"{it.depth}: {it.reason}"
            for it in loop.refusals
        ]
        run.head = run.final = run.auto = run.base
        run.routed = 0.0
        if heads:
            run.head = await self._named(heads[-1].name, stored)
        if loop.versions:
            run.final = await self._named(DOMAIN, stored)
            found = await self.client.encode(self.data.test.texts, route="auto")
            run.auto = figures(ranks_of(found.vectors, stored, self.own))
            run.routed = sum(bool(row.skills) for row in found.rows) / len(found.rows)

    async def _named(self, skill: str, stored: npt.NDArray[np.float32]) -> Figures | None:
        try:
            found = await self.client.encode(self.data.test.texts, skills=(skill,))
        except (ServiceError, ExceptionGroup) as error:
            self.run.refusals.append(f"{skill} could not be asked: {_sentence(error)}")
            return None
        return figures(ranks_of(found.vectors, stored, self.own))


def _sentence(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
