"""`python -m benchmarks.scale`: how cost grows with encoders, skills and feedback.

What a request costs each process is measured here, through the real code: a real bus (our broker,
and NATS where nats-server is installed) and a real router between clients and stand-ins for 1, 10
and 100 encoders; one encoder's forward pass; the index with 100, 1,000 and 10,000 skills; bytes of
the journal. From that, fleets of 1, 10 and 100 encoders are simulated in virtual time, without
sleeping: the same costs and seed give the same figures. A real fleet of one and of two encoders
says how far the simulation can be believed.

The result goes to --out (benchmarks/results/scale.json is what docs/scale.md is made of, by
`python -m benchmarks.report`). With --costs FILE of an earlier result nothing is measured again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

import services.runtime.one_thread  # noqa: F401  (before NumPy: as the router's process has it)
from benchmarks.encode.texts import NotEnoughTexts, Texts, model_tokens, standard_library
from benchmarks.kit.children import BenchError
from benchmarks.kit.command import (
    Benchmark,
    Found,
    add_output,
    measured_on,
    progress_bar,
    typed,
)
from benchmarks.kit.fleet import FleetFailed
from benchmarks.kit.nats import NatsFailed, nats_version
from benchmarks.routing.speed import WrongAnswers
from benchmarks.scale import carriers, engine, index
from benchmarks.scale.costs import BROKER, NATS, Costs
from benchmarks.scale.forecast import Scale, checked, forecasts
from benchmarks.scale.table import show
from benchmarks.scale.validation import Seen, observed
from lora.model import find_model


class NoResult(Exception):
    """A file that should hold an earlier result of this benchmark holds none."""


SCALE = Benchmark(
    name="scale",
    about=__doc__,
    wrong=(OSError, NoResult),
    failed=(
        *(BenchError, FleetFailed, NatsFailed),
        *(NotEnoughTexts, TimeoutError, WrongAnswers),
    ),
)
REAL = (1, 2)
"""Encoders of the fleets that are run."""
SENTENCES = 1500


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = SCALE.parser()
    parser.add_argument("--requests", type=int, default=3000, help="of a run (%(default)s)")
    parser.add_argument("--batches", type=int, default=25, help="of each size (%(default)s)")
    parser.add_argument("--texts", type=int, default=1024, help="to a real fleet (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="durable (%(default)s)")
    parser.add_argument("--no-nats", action="store_true", help="our broker alone")
    parser.add_argument("--costs", type=Path, metavar="FILE", help="simulate by an earlier result")
    parser.add_argument("--seed", type=int, default=1, help="%(default)s")
    add_output(parser)
    given = parser.parse_args(argv)
    if min(given.requests, given.batches, given.texts) < 1 or given.seconds <= 0:
        parser.error("--requests, --batches, --texts and --seconds should be more than 0")
    given.typed = typed(SCALE.name, argv)
    return given


async def _costs(given: argparse.Namespace, console: Console) -> tuple[Costs, list[Seen]]:
    """Everything that is measured."""
    names = [BROKER] + ([NATS] if nats_version() and not given.no_nats else [])
    with progress_bar(console) as bar:
        task = bar.add_task("", total=len(names) + len(REAL) + 2)

        def say(text: str) -> None:
            bar.update(task, description=text)

        size = carriers.Size(requests=given.requests, beats=given.requests, seconds=given.seconds)
        found = []
        for name in names:
            found.append(carriers.measure(name, size, say))
            bar.advance(task)
        say("one encoder's forward pass")
        encoding = engine.measure(given.batches, given.seed)
        bar.advance(task)
        texts = Texts(standard_library(model_tokens(find_model().folder)), given.seed)
        seen = []
        for encoders in REAL:
            seen.append(await observed(encoders, texts, given.texts, 100, say))
            bar.advance(task)
        encoding = msgspec.structs.replace(encoding, request_us=seen[0].request_us)
        held = index.measure(texts.draw(SENTENCES), index.SKILLS, given.seed, say)
    costs = Costs(carriers=tuple(found), encoding=encoding, index=tuple(held))
    return costs, seen


def _earlier(file: Path) -> Scale:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Scale)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoResult(f"--costs {file} is no result of this benchmark: {error}") from error


async def measure(given: argparse.Namespace, console: Console) -> Found:
    """Measure, or read what was; then simulate. Raises what `SCALE` expects."""
    began, load = time.monotonic(), os.getloadavg()[0]
    if given.costs is None:
        costs, seen = await _costs(given, console)
        machine = measured_on(began)
    else:
        before = _earlier(given.costs)
        costs, seen = before.costs, [check.seen for check in before.checks]
        machine, load = before.machine, before.load
    checks = [checked(one, costs, given.seed) for one in seen]
    with progress_bar(console) as bar:
        task = bar.add_task("simulating", total=None)
        outcomes = tuple(forecasts(costs, given.seed, lambda: bar.advance(task)))
    nats = {"nats-server": version} if (version := nats_version()) else {}
    scale = Scale(
        name=SCALE.name,
        command=given.typed,
        machine=machine,
        load=load,
        versions={"consonance": importlib.metadata.version("consonance"), **nats},
        costs=costs,
        checks=tuple(checks),
        outcomes=outcomes,
    )
    show(scale, console)
    found: Found = msgspec.to_builtins(scale)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong option or file, 130 interrupted."""
    given = options_of(argv)
    return SCALE.perform(given, measure, out=given.out)


if __name__ == "__main__":
    sys.exit(main())
