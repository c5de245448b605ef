"""`python -m benchmarks.memory`: what a fleet takes of memory.

Real fleets, one after the other: with 1, 2 and 4 encoders, and with 1,000 cards registered, of
which bodies are then asked for, float32 ones and int8 ones. Of each process: resident, its share of
what is mapped by several (PSS, which adds up), and what is its own (USS). Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

import bus
from benchmarks.kit.command import (
    Benchmark,
    Found,
    add_model,
    add_output,
    measured_on,
    progress_bar,
    until_stopped,
)
from benchmarks.kit.fleet import FleetFailed, fresh_state, running_fleet, settings_file
from benchmarks.kit.rounds import Comparison, Figure, Report, compare, figure
from benchmarks.kit.show import show
from benchmarks.memory.cards import PROTOTYPES, active_cards, register, registered_cards
from benchmarks.memory.processes import Taken, taken_by
from services.runtime.client import EncodeFailedError, FleetClient

MEMORY: Final = Benchmark(
    name="memory", about=__doc__, failed=(FleetFailed, EncodeFailedError, bus.BusError)
)
OURS: Final = "consonance"
DTYPES: Final = ("float32", "int8")
WANTED: Final = 50.0
"""MB that a card in use may take at most."""
TEXTS: Final = 128
"""Encoded before anything is measured, so that every encoder has run a full batch."""


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = MEMORY.parser()
    parser.add_argument("--rounds", type=int, default=1, help="of all fleets (%(default)s)")
    parser.add_argument("--workers", default="1,2,4", help="encoders, by fleet (%(default)s)")
    parser.add_argument("--registered", type=int, default=1000, help="cards (%(default)s)")
    parser.add_argument("--active", type=int, default=64, help="cards of a dtype (%(default)s)")
    add_model(parser)
    add_output(parser)
    given = parser.parse_args(argv)
    try:
        given.workers = [int(count) for count in given.workers.split(",")]
    except ValueError:
        parser.error(f"--workers should be numbers with commas, not {given.workers!r}")
    if min(given.rounds, given.registered, given.active, *given.workers) < 1:
        parser.error("numbers should be at least 1")
    return given


class Books:
    """What was measured, by what it is and of whom, in megabytes."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[float]] = {}

    def add(self, what: str, megabytes: float, who: str = OURS) -> None:
        """One round's."""
        self._values.setdefault((what, who), []).append(megabytes)

    def fleet(self, name: str, found: dict[str, list[Taken]]) -> None:
        """Every process; of several encoders their mean."""
        for service, processes in sorted(found.items()):
            for kind, values in zip(Taken._fields, zip(*processes, strict=True), strict=True):
                self.add(f"{name}: {kind}", _mb(sum(values) / len(values)), service)
        total = sum(one.proportional for several in found.values() for one in several)
        self.add(f"{name}: the whole fleet (PSS)", _mb(total))

    def of(self, what: str) -> list[float]:
        """The rounds' values of one quantity of the whole fleet's."""
        return self._values.get((what, OURS), [])

    def figures(self) -> tuple[Figure, ...]:
        """All of it."""
        return tuple(
            figure(what, who, "MB", values) for (what, who), values in self._values.items()
        )


async def _round(given: argparse.Namespace, books: Books) -> None:
    for workers in given.workers:
        with fresh_state() as state:
            found = await _plain(given, state, workers)
        books.fleet(_encoders(workers), found)
        if workers == given.workers[0]:
            first = found
    with fresh_state() as state:
        await _with_cards(given, state, books, first)


async def _plain(given: argparse.Namespace, state: Path, workers: int) -> dict[str, list[Taken]]:
    config = settings_file(state, {})
    async with running_fleet(state, config=config, workers=workers, model=given.model) as fleet:
        async with await bus.connect(fleet.bus, source="/benchmark/memory") as line:
            await _warm(FleetClient(line, deadline_ms=120_000), workers)
        return taken_by(fleet.process.pid)


async def _with_cards(
    given: argparse.Namespace, state: Path, books: Books, bare: dict[str, list[Taken]]
) -> None:
    """With so many registered; then ask for bodies, and see what the encoders have grown by."""
    workers = given.workers[0]
    bodies = {dtype: active_cards(given.model, given.active, dtype) for dtype in DTYPES}
    register(state, registered_cards(given.model, given.registered))
    register(state, (card for cards in bodies.values() for card in cards))
    config = settings_file(state, {})
    async with (
        running_fleet(state, config=config, workers=workers, model=given.model) as fleet,
        await bus.connect(fleet.bus, source="/benchmark/memory") as line,
    ):
        client = FleetClient(line, deadline_ms=120_000)
        await _warm(client, workers)
        before = taken_by(fleet.process.pid)
        thousands = (given.registered + len(DTYPES) * given.active) / 1000
        for service, processes in sorted(before.items()):
            grown = _sum(processes, "private") - _sum(bare.get(service, []), "private")
            books.add("per 1,000 registered: private", _mb(grown / thousands), service)
        for dtype, cards in bodies.items():
            start = taken_by(fleet.process.pid)["encoder"]
            for card in cards:
                answer = await client.encode([f"a text for {card.name}"], skills=[card.name])
                if len(answer.vectors) != 1:
                    raise FleetFailed(f"{card.name} gave no vector")
            end = taken_by(fleet.process.pid)["encoder"]
            for kind in Taken._fields:
                growth = _sum(end, kind) - _sum(start, kind)
                books.add(f"per card in use, {dtype}: {kind}", _mb(growth / len(cards)))


async def _warm(client: FleetClient, workers: int) -> None:
    """Every encoder has computed batches, as many texts as it takes for each to have some."""
    texts = [f"text number {n}, said in so many words as people say things" for n in range(TEXTS)]
    await asyncio.gather(
        *(client.encode([f"{n}: {text}" for text in texts]) for n in range(workers))
    )


def _sum(processes: Sequence[Taken], kind: str) -> int:
    return sum(int(getattr(one, kind)) for one in processes)


def _mb(size: float) -> float:
    return size / 1e6


def _encoders(count: int) -> str:
    return f"{count} encoder" if count == 1 else f"{count} encoders"


def measure(given: argparse.Namespace, console: Console) -> Found:
    """Fleet after fleet; raises `FleetFailed`, `OSError`."""
    began = time.monotonic()
    if not Path("/proc/self/smaps_rollup").exists():
        raise OSError("the kernel does not say what processes take: no /proc/self/smaps_rollup")
    books = Books()

    async def rounds() -> None:
        with progress_bar(console) as bar:
            task = bar.add_task("rounds", total=given.rounds)
            for _ in range(given.rounds):
                await _round(given, books)
                bar.advance(task)

    until_stopped(rounds())
    comparisons: list[Comparison] = []
    for dtype in DTYPES:
        what = f"per card in use, {dtype}: private"
        values = books.of(what)
        promised = (f"{WANTED:.0f} MB", [WANTED] * len(values))
        comparisons.append(compare(what, (OURS, values), promised, relation="<=", wanted=1.0))
    report = Report(
        name="memory",
        command=shlex.join(["python", "-m", "benchmarks.memory", *sys.argv[1:]]),
        machine=measured_on(began),
        versions={name: importlib.metadata.version(name) for name in ("consonance", "torch")},
        figures=books.figures(),
        comparisons=tuple(comparisons),
        notes=(
            "resident counts what is shared in full, proportional divides it by those who share it"
            " and adds up, private is what nobody else has; of several encoders the mean.",
            f"Registered are heads with {PROTOTYPES} prototypes; in use are bodies of rank 8 on"
            f" query and value, {given.active} of each dtype, one text through each.",
            "Memory does not depend on what else the machine does: one round says it all.",
        ),
    )
    show(report, console)
    return report.found()


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    given = options_of(argv)
    return MEMORY.perform(given, measure, out=given.out)


if __name__ == "__main__":
    sys.exit(main())
