"""The demonstration itself: one fleet, one domain, before and after."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.kit.feedback import feedback_events, publish_all
from benchmarks.kit.fleet import RunningFleet, fresh_state, running_fleet, settings_file
from benchmarks.kit.loop import Loop, Version
from benchmarks.kit.measure import ranks_of
from benchmarks.kit.trickle import Trickle
from bus import Bus, BusError, connect
from demo.domain import Pair, Split, pairs, split
from demo.narrator import Narrator
from demo.results import Example, Measured, Results
from demo.screen import Screen, first_of
from schemas import Event
from services.errors import ServiceError
from services.runtime.client import FleetClient

__all__ = ["DOMAIN", "Options", "Story"]

DOMAIN = "python-stdlib"
MEASURING = 25.0  # seconds kept for what comes after the learning
OVERTIME = 240.0  # seconds that a head may be late on a machine busy with other things
EXAMPLES = 6


@dataclass(frozen=True)
class Options:
    """What the person asked for."""

    feedback: int = 512
    """Pieces of feedback."""
    minutes: float = 6.0
    """How long all of it may take; the body is given up for that."""
    state: Path | None = None
    """State folder; none: a temporary one."""
    report: Path = Path("demo-report")
    model: str | None = None
    workers: int | None = None


class Story:
    """Told once, from top to bottom."""

    def __init__(self, options: Options, screen: Screen) -> None:
        self.options = options
        self.screen = screen
        self.begun = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until the demonstration should be over."""
        return self.options.minutes * 60 - (time.monotonic() - self.begun)

    async def tell(self) -> Results:
        """Raises what keeps the demonstration from being held at all."""
        self.screen.title("The domain: the standard library of this Python")
        domain = await asyncio.to_thread(lambda: split(pairs()))
        asked = domain.feedback[: self.options.feedback]
        everything = (*domain.feedback, *domain.held_out)
        results = Results(platform.python_version(), len(everything), len(asked))
        self.screen.say(
            f"{len(everything):,} signatures of Python {results.python}, each with the first "
            f"sentence of its docstring as a query"
        )
        self.screen.say(
            f"{len(asked):,} queries will be given as feedback; {len(domain.held_out):,} are held "
            f"out: neither they nor their signatures are ever given"
        )
        with contextlib.ExitStack() as stack:
            state = self.options.state or stack.enter_context(fresh_state())
            async with self._fleet(state) as fleet:
                results.clock.ready = fleet.seconds
                self.screen.say(f"the fleet is ready after {fleet.seconds:.1f} s at {fleet.bus}")
                bus = await connect(fleet.bus, source="/demo/1")
                async with bus:
                    await self._learn(bus, fleet, domain, asked, results)
                self.screen.say("stopping the fleet")
        results.clock.total = time.monotonic() - self.begun
        return results

    def _fleet(self, state: Path) -> contextlib.AbstractAsyncContextManager[RunningFleet]:
        self.screen.title("The fleet")
        self.screen.say(f"starting run_all.py with its state in {state}")
        config = settings_file(
            state,
            {
                # A person waits here: learn soon after the last clash instead of in the night.
                "monitor": {"batch_max_age": 10.0},
                "factory": {
                    # Longer than a busy machine needs between two batches: a body that is begun
                    # on the first of them only keeps the others waiting.
                    "quiet_period": 15.0,
                    "body_time_budget": max(30.0, self.options.minutes * 60 * 0.45),
                },
            },
        )
        return running_fleet(
            state, config=config, model=self.options.model, workers=self.options.workers
        )

    async def _learn(
        self, bus: Bus, fleet: RunningFleet, domain: Split, asked: Sequence[Pair], results: Results
    ) -> None:
        client = FleetClient(bus, deadline_ms=120_000)
        everything = (*domain.feedback, *domain.held_out)
        place = {pair.name: index for index, pair in enumerate(everything)}
        own = np.array([place[pair.name] for pair in domain.held_out])

        self.screen.title("Before")
        start = time.monotonic()
        texts = [pair.passage for pair in everything]
        with self.screen.counting("signatures embedded, once and for all", len(texts)) as more:
            stored = await client.encode(texts, role="document", route="base", progress=more)
        results.clock.passages = time.monotonic() - start
        ruler = _Ruler(client, [pair.query for pair in domain.held_out], stored.vectors, own)
        with self.screen.counting("held-out queries asked of the base model", len(own)) as more:
            results.measured.append(await ruler.measure("base", progress=more))
        figures = results.base.figures
        self.screen.say(f"recall@1 {figures.recall:.3f}, MRR@10 {figures.mrr:.3f}", "bold")

        self.screen.title("What people found")
        events = await self._feedback(client, asked, texts, stored.vectors, place)
        loop = Loop(bus, DOMAIN)
        narrator = Narrator(self.screen, loop, results, len(events))
        loop.heard = narrator.hear
        trickle = Trickle(client, [pair.query for pair in domain.feedback[-200:]])
        async with loop.watching(), trickle.running():
            narrator.begin()
            await publish_all(bus, events)
            self.screen.say(f"{len(events)} pieces of feedback are in the journal")
            self.screen.title("The fleet learns, and goes on serving")
            with self.screen.bars():
                await self._follow(fleet, loop, ruler, results, len(events))
        results.asked, results.failed = len(trickle.seconds), len(trickle.failures)
        results.p50_ms, results.p99_ms = trickle.p50_ms, trickle.p99_ms
        results.judged, results.clashes = loop.judged, loop.clashes
        results.batches = len(loop.batches)
        results.refusals = [it.reason for it in loop.refusals]
        for failure in trickle.failures[:3]:
            self.screen.say(f"a request failed: {failure}", "red")

        self.screen.title("After")
        if results.final is not None:
            results.measured.append(await ruler.measure("auto", route="auto"))
            results.examples = _examples(domain.held_out, results)
        self.screen.table(results)

    async def _feedback(
        self,
        client: FleetClient,
        asked: Sequence[Pair],
        texts: Sequence[str],
        stored: npt.NDArray[np.float32],
        place: dict[str, int],
    ) -> list[Event[Any]]:
        """Each query's own signature is relevant; the others among its first ten are not."""
        with self.screen.counting("queries asked of the base model", len(asked)) as more:
            vectors = await client.encode(
                [pair.query for pair in asked], route="base", progress=more
            )
        own = [place[pair.name] for pair in asked]
        return feedback_events(
            client.bus.source,
            DOMAIN,
            [pair.query for pair in asked],
            vectors.vectors,
            texts,
            stored,
            own,
        )

    async def _follow(
        self, fleet: RunningFleet, loop: Loop, ruler: _Ruler, results: Results, pieces: int
    ) -> None:
        """Measure every version as it comes, until the body has its verdict or time is up."""
        measured = 0
        probes: dict[str, asyncio.Task[float]] = {}

        tell = loop.heard

        def hear(event: Event[Any]) -> None:
            if tell is not None:
                tell(event)
            for version in loop.versions:  # the first answer is timed while others are measured
                if version.name not in probes:
                    probes[version.name] = asyncio.create_task(ruler.first_answer(version))

        loop.heard = hear

        def news() -> bool:
            fleet.check()
            late = self.left < MEASURING and loop.decided(pieces, "head")
            return len(loop.versions) > measured or loop.decided(pieces, "body") or late

        while await loop.until(news, max(0.0, self.left + OVERTIME)):
            if measured == len(loop.versions):
                break  # everything that there was time for is decided and measured
            version = loop.versions[measured]
            measured += 1
            clash = loop.last_clash_of(version)
            try:
                seconds = await probes[version.name] - clash
                row = await ruler.measure(version.depth, skill=version.name)
            except (BusError, ServiceError, ExceptionGroup) as error:
                self.screen.say(f"{version.name} could not be measured: {first_of(error)}")
                continue
            results.clock.answering[version.name] = seconds
            results.measured.append(row)
            self.screen.say(
                f"{version.name} ({version.depth}) answered {seconds:.1f} s after the last clash "
                f"of its batch: recall@1 {row.figures.recall:.3f}, MRR@10 {row.figures.mrr:.3f}",
                "bold green",
            )
        if not loop.decided(pieces, "body"):
            self.screen.say("time is up: the body has no verdict yet", "yellow")
        for probe in probes.values():
            probe.cancel()
        await asyncio.gather(*probes.values(), return_exceptions=True)


@dataclass(frozen=True)
class _Ruler:
    """Ranks the held-out queries against the vectors that were stored before any learning."""

    client: FleetClient
    queries: Sequence[str]
    stored: npt.NDArray[np.float32]
    own: npt.NDArray[np.int64]

    async def measure(
        self, label: str, *, skill: str | None = None, route: str = "base", progress: Any = None
    ) -> Measured:
        """Encode all queries along one route, and rank."""
        found = await self.client.encode(
            self.queries,
            route="named" if skill else route,  # type: ignore[arg-type]
            skills=(skill,) if skill else (),
            progress=progress,
        )
        routed = sum(bool(row.skills) for row in found.rows) / len(found.rows)
        return Measured(label, skill, ranks_of(found.vectors, self.stored, self.own), routed)

    async def first_answer(self, version: Version) -> float:
        """When a request that names the version was answered, on the monotonic clock."""
        await self.client.encode(self.queries[:1], skills=(version.name,))
        return time.monotonic()


def _examples(held_out: Sequence[Pair], results: Results) -> list[Example]:
    """The largest rises, and the two largest falls: nothing is only good."""
    final = results.final
    if final is None:
        return []
    change = 1.0 / results.base.ranks - 1.0 / final.ranks
    order = np.argsort(change, kind="stable")
    chosen = [int(index) for index in (*order[: EXAMPLES - 2], *order[:-3:-1])]
    return [
        Example(
            held_out[index].query,
            held_out[index].passage,
            int(results.base.ranks[index]),
            int(final.ranks[index]),
        )
        for index in chosen
    ]
