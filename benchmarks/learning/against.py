"""From the 256th piece of feedback to the card that answers, and how long the peer takes for that.

`python -m benchmarks.learning --against sentence-transformers` races, seed by seed, a whole fleet
against sentence-transformers' trainer with a PEFT LoRA. The fleet's time is from the last piece of
feedback on the bus to `skill.installed`: judging, batches, the dataset, the start of a process,
training, the gate, installation. The peer's ends where it ranks the held-out queries as well
(recall@1) as the card does. Without `--data` queries are docstrings and passages the modules of the
standard library that they are from.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from benchmarks.installation.lessons import Lessons, lessons_of
from benchmarks.kit.child import run_child
from benchmarks.kit.command import (
    Benchmark,
    Found,
    add_model,
    add_output,
    add_seeds,
    measured_on,
    seeds_of,
    until_stopped,
)
from benchmarks.kit.feedback import feedback_events, publish_all
from benchmarks.kit.fleet import FleetFailed, RunningFleet, fresh_state, running_fleet
from benchmarks.kit.fleet import settings_file as settings_in
from benchmarks.kit.loop import Depth, Loop
from benchmarks.kit.measure import ranks_of
from benchmarks.kit.rounds import Comparison, Figure, Report, compare, figure
from benchmarks.kit.show import show
from benchmarks.learning import peer
from benchmarks.learning.data import DataError, DataSet, Queries, read
from bus import Bus, connect
from demo import domain
from lora.model import find_model
from services.runtime.client import FleetClient

__all__ = ["AGAINST", "Raced", "main", "modules"]

AGAINST = Benchmark(
    name="learning",
    about=__doc__,
    wrong=(DataError, OSError),
    failed=(FleetFailed, TimeoutError, RuntimeError),
)
OURS, PEER = "consonance", "sentence-transformers"
DOMAIN = "raced"
TIMES: dict[Depth, float] = {"head": 12.0, "body": 1.5}
"""The peer is given up after so many times the fleet's time, the longer of these."""

WANTED: dict[Depth, float] = {"head": 10.0, "body": 1.0}
HELD_OUT = 400
SETTINGS: dict[str, dict[str, Any]] = {"factory": {"quiet_period": 1.0}}
"""Nobody waits for a pause that feedback given at once is followed by."""

Say = Callable[[str], None]


@dataclass
class Raced:
    """One seed: the fleet's depths that were installed, and the peer's way to each."""

    seed: int
    base: float = 0.0
    recall: dict[Depth, float] = field(default_factory=dict)
    """Recall@1 of the held-out queries, by the card of that depth."""
    seconds: dict[Depth, float] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    peers: list[peer.Tried] = field(default_factory=list)

    def peer_s(self, depth: Depth) -> tuple[float, bool]:
        """Seconds of the peer's fastest recipe, and whether it came as far; where none did, those
        of the one that was tried longest."""
        reached = [it.reached(self.recall[depth]) for it in self.peers]
        times = [it for it in reached if it is not None]
        if times:
            return min(times), True
        last = max((look.seconds for it in self.peers for look in it.looks), default=0.0)
        return last, False


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = AGAINST.parser()
    parser.add_argument("--against", choices=[PEER], required=True, help="the peer")
    parser.add_argument("--data", type=Path, help="folder in BANKING77's form, instead")
    parser.add_argument("--feedback", type=int, default=256, help="pieces (%(default)s)")
    add_seeds(parser, 3, "rounds")
    parser.add_argument("--body", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for a verdict")
    parser.add_argument("--threads", type=int, default=2, help="of the peer (%(default)s)")
    parser.add_argument("--log", type=Path, help="file that keeps the fleets' logs")
    add_model(parser)
    add_output(parser)
    given = parser.parse_args(argv)
    if given.feedback < 64 or given.seeds < 1:
        parser.error("--feedback should be at least 64, --seeds at least 1")
    given.typed = shlex.join(["python", "-m", "benchmarks.learning", *(argv or sys.argv[1:])])
    return given


def modules(lessons: Lessons) -> DataSet:
    """Sentences of the standard library and their modules; every second one is held out."""

    def half(first: int) -> Queries:
        return Queries(lessons.queries[first::2], lessons.own[first::2])

    return DataSet(train=half(0), test=half(1), passages=lessons.passages)


def measure(given: argparse.Namespace, console: Console) -> Found:
    """All seeds, one after another; what was raced is under `runs`."""
    began = time.monotonic()
    data = modules(lessons_of(domain.pairs())) if given.data is None else read(given.data)
    test = data.test.sample(min(HELD_OUT, len(data.test)), 0)
    data = DataSet(data.train, test, data.passages)
    raced = []
    for seed in seeds_of(given):
        with console.status(f"seed {seed}") as status:

            def say(text: str, seed: int = seed, status: Any = status) -> None:
                status.update(f"seed {seed}: {text}")

            raced.append(_race(data, given, seed, say))
        console.print(_line(raced[-1]), markup=False, highlight=False)
    report = report_of(raced, data, given, measured_on(began))
    show(report, console)
    return report.found() | {"runs": [_plain(run) for run in raced]}


def _race(data: DataSet, given: argparse.Namespace, seed: int, say: Say) -> Raced:
    run, asked = Raced(seed), data.train.sample(given.feedback, seed)
    say("the fleet learns")
    until_stopped(_learn(data, asked, given, run))
    if not run.recall:
        return run
    say("the peer learns")
    race = peer.Race(
        queries=list(asked.texts),
        relevant=list(asked.own),
        passages=list(data.passages),
        held_out=list(data.test.texts),
        held_out_relevant=list(data.test.own),
        model=str(find_model(given.model).folder),
        goals=list(run.recall.values()),
        limit_s=max(TIMES[depth] * seconds for depth, seconds in run.seconds.items()),
        threads=given.threads,
        seed=seed,
    )
    with tempfile.TemporaryDirectory(prefix="race-") as name:
        folder = Path(name)
        (folder / peer.TASK).write_bytes(msgspec.json.encode(race))
        run_child(
            peer.__name__,
            folder,
            whose="the peer's",
            threads=given.threads,
            HF_HUB_OFFLINE="1",
            TOKENIZERS_PARALLELISM="false",
        )
        raw = (folder / peer.RESULT).read_bytes()
    run.peers = msgspec.json.decode(raw, type=list[peer.Tried])
    return run


async def _learn(data: DataSet, asked: Queries, given: argparse.Namespace, run: Raced) -> None:
    settings = {name: dict(values) for name, values in SETTINGS.items()}
    if not given.body:
        settings["factory"]["body_schedule"] = "off"
    with fresh_state() as state:
        config = settings_in(state, settings)
        async with (
            running_fleet(state, config=config, model=given.model, log=given.log) as fleet,
            await connect(fleet.bus, source="/benchmark/1") as bus,
        ):
            await _session(data, asked, given, run, fleet, bus)


async def _session(
    data: DataSet,
    asked: Queries,
    given: argparse.Namespace,
    run: Raced,
    fleet: RunningFleet,
    bus: Bus,
) -> None:
    client = FleetClient(bus, deadline_ms=120_000)
    stored = (await client.encode(data.passages, role="document", route="base")).vectors
    vectors = (await client.encode(asked.texts, route="base")).vectors
    events = feedback_events(
        bus.source, DOMAIN, asked.texts, vectors, data.passages, stored, asked.own
    )

    async def recall(skill: str | None) -> float:
        if skill is None:
            found = await client.encode(data.test.texts, route="base")
        else:
            found = await client.encode(data.test.texts, skills=(skill,))
        return float((ranks_of(found.vectors, stored, data.test.own) == 1).mean())

    run.base = await recall(None)
    loop = Loop(bus, DOMAIN, body=given.body)
    async with loop.watching():
        await publish_all(bus, events)
        start = time.monotonic()
        depths: tuple[Depth, ...] = ("head", "body") if given.body else ("head",)
        for depth in depths:

            def over(depth: Depth = depth) -> bool:
                fleet.check()
                last = loop.last_task()
                # Clashes that fill no batch wait for more; their feedback is in the dataset.
                whole = loop.judged >= len(events) and loop.clashes - loop.batched < 16
                answered = whole and all(loop.batches.values())
                return answered and last is not None and depth in last.verdicts

            if not await loop.until(over, given.limit):
                raise TimeoutError(f"no verdict on the {depth} after {given.limit:.0f} s")
            last = loop.last_task()
            made = [it for it in loop.versions if it.depth == depth]
            if last is not None and made and made[-1].task_id == last.task_id:
                run.seconds[depth] = made[-1].installed - start
                run.recall[depth] = await recall(made[-1].name)
    run.refusals = [it.reason for it in loop.refusals]


def report_of(
    raced: Sequence[Raced], data: DataSet, given: argparse.Namespace, machine: Found
) -> Report:
    """Figures of both, and how many times longer the peer takes."""
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    notes = [
        f"{given.feedback} pieces of feedback, {len(data.passages):,} passages, "
        f"{len(data.test):,} held-out queries; a round is a seed."
    ]
    for depth in WANTED:
        runs = [run for run in raced if depth in run.recall]
        if not runs:
            if depth == "head" or given.body:
                notes.append(f"No {depth} passed the gate: there is nothing to compare.")
            continue
        if len(runs) < len(raced):
            notes.append(f"A {depth} passed the gate in {len(runs)} of {len(raced)} rounds.")
        what = f"last piece of feedback to the installed {depth}"
        ours = [run.seconds[depth] for run in runs]
        theirs = [run.peer_s(depth) for run in runs]
        taken = [seconds for seconds, _ in theirs]
        figures += [
            figure(what, OURS, "s", ours),
            figure("training and embedding, to the same recall", PEER, "s", taken),
            figure(f"recall@1 with the {depth}", OURS, "0–1", [run.recall[depth] for run in runs]),
        ]
        promise = compare(what, (PEER, taken), (OURS, ours), relation=">=", wanted=WANTED[depth])
        comparisons.append(promise)
        late = sum(not came for _, came in theirs)
        if late:
            notes.append(
                f"In {late} of {len(runs)} rounds the peer never ranked as well as the {depth}: "
                "the time after which it had ended or was given up stands for it, which is too "
                "short."
            )
    figures.append(figure("recall@1 of the base model", "base", "0–1", [it.base for it in raced]))
    return Report(
        name=AGAINST.name,
        command=given.typed,
        machine=machine,
        versions=_versions(),
        figures=tuple(figures),
        comparisons=tuple(comparisons),
        notes=tuple(notes),
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in (OURS, PEER, "peft", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(run: Raced) -> Found:
    return {
        "seed": run.seed,
        "base": run.base,
        "recall": dict(run.recall),
        "seconds": dict(run.seconds),
        "refusals": run.refusals,
        "peers": msgspec.to_builtins(run.peers),
    }


def _line(run: Raced) -> str:
    parts = []
    for depth, recall in run.recall.items():
        seconds, came = run.peer_s(depth)
        theirs = f"{seconds:.0f} s" if came else f"not within {seconds:.0f} s"
        parts.append(f"{depth} {recall:.3f} in {run.seconds[depth]:.1f} s, the peer {theirs}")
    best = max((look.recall for it in run.peers for look in it.looks), default=np.nan)
    said = "; ".join(parts) or "no card"
    return f"seed {run.seed}: base {run.base:.3f}; {said}; the peer's best {best:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong option or folder, 130 interrupted."""
    given = options_of(argv)
    return AGAINST.perform(given, measure, out=given.out)
