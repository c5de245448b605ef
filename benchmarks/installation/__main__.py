"""`python -m benchmarks.installation`: from the last clash to the card that answers.

A whole fleet is given pieces of feedback that all clash, in batches that are full. Timed is what
lies between the last clash and the first answer by the card that was learned from it, less the
seconds that the training says it took: reading, choosing, fitting and the gate. What is left is
the loop's own: batches, the dataset, the start and end of the training's process, publication,
verification, installation.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks.installation.lessons import lessons_of
from benchmarks.installation.run import NoCard, installations
from benchmarks.installation.timeline import STEPS, Timeline
from benchmarks.kit.command import (
    Benchmark,
    Found,
    add_output,
    measured_on,
    progress_bar,
    until_stopped,
)
from benchmarks.kit.fleet import FleetFailed
from benchmarks.kit.rounds import Comparison, Figure, Report, compare, figure
from benchmarks.kit.show import show
from demo import domain

INSTALLATION = Benchmark(
    name="installation",
    about=__doc__,
    wrong=(ValueError, OSError),
    failed=(FleetFailed, NoCard, TimeoutError, RuntimeError),
)
OURS = "consonance"
WANTED = 1.0
"""Seconds."""


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = INSTALLATION.parser()
    parser.add_argument("--pieces", type=int, default=128, help="a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="%(default)s")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one card")
    parser.add_argument("--log", type=Path, help="file that keeps the fleet's log")
    add_output(parser)
    given = parser.parse_args(argv)
    if given.rounds < 1 or given.pieces < 16 or given.pieces % 16:
        parser.error("--rounds should be at least 1, --pieces a multiple of 16")
    given.typed = shlex.join(["python", "-m", "benchmarks.installation", *(argv or sys.argv[1:])])
    return given


def report_of(timelines: Sequence[Timeline], given: argparse.Namespace, began: float) -> Report:
    """Figures of each step, and the promise."""
    what = f"{given.pieces} clashes"
    beside = [it.beside for it in timelines]
    figures: list[Figure] = [
        figure(f"{what}: last clash to the first answer", OURS, "s", _whole(timelines)),
        figure(f"{what}: the training's own", OURS, "s", [it.training for it in timelines]),
        figure(f"{what}: all but the training", OURS, "s", beside),
    ]
    for step, name in STEPS.items():
        figures.append(figure(name, OURS, "s", [it.steps()[step] for it in timelines]))
    promise: Comparison = compare(
        "last clash to the card answering, without the training",
        (OURS, beside),
        ("nothing", [0.0] * len(beside)),
        relation="<=",
        wanted=WANTED,
        difference="s",
    )
    return Report(
        name="installation",
        command=given.typed,
        machine=measured_on(began),
        versions={OURS: version("consonance")},
        figures=tuple(figures),
        comparisons=(promise,),
    )


def _whole(timelines: Sequence[Timeline]) -> list[float]:
    return [it.answered - it.clash for it in timelines]


def measure(given: argparse.Namespace, console: Console) -> Found:
    """All rounds in one fleet."""
    began = time.monotonic()
    lessons = lessons_of(domain.pairs())
    with progress_bar(console) as bar:
        job = bar.add_task("rounds", total=given.rounds + 1)
        timelines = until_stopped(
            installations(
                lessons,
                given.pieces,
                given.rounds,
                limit=given.limit,
                log=given.log,
                tell=lambda: bar.advance(job),
            )
        )
    report = report_of(timelines, given, began)
    show(report, console)
    return report.found()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong option, 130 interrupted."""
    given = options_of(argv)
    return INSTALLATION.perform(given, measure, out=given.out)


if __name__ == "__main__":
    sys.exit(main())
