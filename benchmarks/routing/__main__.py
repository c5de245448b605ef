"""`python -m benchmarks.routing`: how fast 10,000 skills are searched; with data, how well.

Without `--data` the index of the router's process is filled with 10,000 skills and timed beside
NumPy's product of the same shape. With `--data FOLDER` one fleet then learns BANKING77, the
standard library and the libraries of numerical work from feedback, one after another, and held-out
queries of all three and more than a thousand questions of none are asked in one mixture with
`route: auto`.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

import services.runtime.one_thread  # noqa: F401  (before NumPy: as the router's process has it)
from benchmarks.kit.command import Benchmark, Found, add_model, add_output, measured_on
from benchmarks.kit.fleet import FleetFailed
from benchmarks.kit.rounds import Report
from benchmarks.kit.show import show
from benchmarks.learning.data import DataError
from benchmarks.routing import quality
from benchmarks.routing.speed import OURS, WrongAnswers, measured
from demo import domain

ROUTING = Benchmark(
    name="routing",
    about=__doc__,
    wrong=(DataError, OSError),
    failed=(FleetFailed, TimeoutError, RuntimeError, WrongAnswers),
)
SENTENCES = 1500
"""Embedded to know how vectors of the model lie; as many everyday questions beside them."""


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ROUTING.parser()
    parser.add_argument("--skills", type=int, default=10_000, help="in the index (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="%(default)s")
    parser.add_argument("--seed", type=int, default=1, help="%(default)s")
    add_model(parser)
    learned = parser.add_argument_group("three learned domains")
    learned.add_argument("--data", type=Path, help="folder in BANKING77's form")
    learned.add_argument("--feedback", type=int, default=512, help="pieces a domain (%(default)s)")
    learned.add_argument("--held-out", type=int, default=800, help="queries each (%(default)s)")
    learned.add_argument("--limit", type=float, default=900.0, help="seconds for a verdict")
    learned.add_argument("--log", type=Path, help="file that keeps the fleet's log")
    add_output(parser)
    given = parser.parse_args(argv)
    if given.skills < 256 or given.rounds < 1:
        parser.error("--skills should be at least 256, --rounds at least 1")
    given.typed = shlex.join(["python", "-m", "benchmarks.routing", *(argv or sys.argv[1:])])
    return given


def measure(given: argparse.Namespace, console: Console) -> Found:
    """The speed, and with `--data` the three domains under `quality`."""
    found = _speed(given, console).found()
    if given.data is not None:
        found["quality"] = asyncio.run(quality.measure(given, console))
    return found


def _speed(given: argparse.Namespace, console: Console) -> Report:
    began = time.monotonic()
    sentences = [pair.query for pair in domain.split(domain.pairs()).feedback][:SENTENCES]
    with console.status("") as status:
        speeds = measured(
            sentences,
            skills=given.skills,
            rounds=given.rounds,
            seed=given.seed,
            model=given.model,
            say=status.update,
        )
    report = Report(
        name=ROUTING.name,
        command=given.typed,
        machine=measured_on(began),
        versions={OURS: version("consonance"), "numpy": version("numpy")},
        figures=speeds.figures,
        comparisons=speeds.comparisons,
        notes=speeds.notes,
    )
    show(report, console)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 where it failed, 2 for a wrong folder, 130 interrupted."""
    given = options_of(argv)
    return ROUTING.perform(given, measure, out=given.out)


if __name__ == "__main__":
    sys.exit(main())
