"""`python -m benchmarks.nodes --data FOLDER`: nodes that learn from each other, on one machine.

Each node is a whole fleet in a network namespace of its own, found by the others by mDNS. One
learns BANKING77 from feedback; the others are asked what needs its skill; then it is killed. Beside
that: cards that travel over loss, delay and pulled cables, and a gateway whose peers go down and
come up every second. Needs Linux, root and iproute2; removes all that it made.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.kit.command import (
    Benchmark,
    add_data,
    add_model,
    add_output,
    measured_on,
    progress_bar,
)
from benchmarks.kit.fleet import FleetFailed
from benchmarks.kit.namespaces import MOST, NetworkError
from benchmarks.learning.data import DataError, DataSet, read
from benchmarks.nodes.children import ChildFailed
from benchmarks.nodes.flapping import Flapping, flapping, leaks
from benchmarks.nodes.run import Federation, Plan, federation
from benchmarks.nodes.table import as_json, missed, show_federation, show_flapping, show_transfers
from benchmarks.nodes.transfers import Transfers, faults, transfers

NODES = Benchmark(
    name="nodes",
    about=__doc__,
    width=140,
    wrong=(DataError, NetworkError, OSError),
    failed=(FleetFailed, ChildFailed),
)
CUTS = (1.5, 45.0)
"""Seconds: within what a transfer bears, and beyond."""


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = NODES.parser()
    add_data(parser)
    parser.add_argument(
        "--nodes", default="2,5", help="federations of so many; 0: none (%(default)s)"
    )
    parser.add_argument("--feedback", type=int, default=256, help="pieces (%(default)s)")
    parser.add_argument("--queries", type=int, default=500, help="of the test set (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of both samples (%(default)s)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for a verdict")
    parser.add_argument("--logs", type=Path, help="folder that keeps the fleets' logs")
    parser.add_argument("--loss", type=float, default=5.0, help="per cent (%(default)s)")
    parser.add_argument("--delay-ms", type=float, default=200.0, help="each way (%(default)s)")
    parser.add_argument("--sizes", default="64,400,2048", help="of cards, in KiB (%(default)s)")
    parser.add_argument("--transfers", type=int, default=5, help="of each; 0: none (%(default)s)")
    parser.add_argument("--flap", type=float, default=60.0, help="seconds; 0: none (%(default)s)")
    add_model(parser)
    add_output(parser)
    given = parser.parse_args(argv)
    given.counts = [count for count in _numbers(parser, given.nodes, "--nodes") if count]
    given.bytes = [size << 10 for size in _numbers(parser, given.sizes, "--sizes")]
    if not all(2 <= count <= MOST for count in given.counts):
        parser.error(f"--nodes should be from 2 to {MOST} each")
    if not given.bytes or not all(4 << 10 <= size <= 64 << 20 for size in given.bytes):
        parser.error("--sizes should be from 4 to 65536 KiB")
    if given.feedback < 1 or given.queries < 1 or given.transfers < 0 or given.flap < 0:
        parser.error("--feedback and --queries should be at least 1, the others at least 0")
    return given


def _numbers(parser: argparse.ArgumentParser, text: str, option: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        parser.error(f"{option} should be numbers with commas, not {text!r}")


async def measure(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All parts, one after another; each shows its table when it is done."""
    began = time.monotonic()
    data: DataSet = read(given.data)
    if given.logs is not None:
        given.logs.mkdir(parents=True, exist_ok=True)
    plan = Plan(given.feedback, given.queries, given.seed, given.limit, given.model, given.logs)
    federations: list[Federation] = []
    carried: Transfers | None = None
    flapped: Flapping | None = None
    told: list[str] = []
    with progress_bar(console) as bar:
        parts = len(given.counts) + bool(given.transfers) + bool(given.flap)
        job = bar.add_task("", total=parts)

        def say(text: str) -> None:
            bar.update(job, description=text)

        for count in given.counts:
            federations.append(await federation(count, data, plan, say))
            told += missed(federations[-1])
            show_federation(federations[-1], bar.console)
            bar.advance(job)
        if given.transfers:
            carried = await transfers(
                given.bytes, given.transfers, given.loss, given.delay_ms, CUTS, say
            )
            told += faults(carried)
            show_transfers(carried, bar.console)
            bar.advance(job)
        if given.flap:
            flapped = await flapping(given.flap, say)
            told += leaks(flapped)
            show_flapping(flapped, bar.console)
            bar.advance(job)
    for text in told:
        console.print(f"missed: {text}", markup=False, highlight=False)
    about = {"data": given.data.name, "feedback": given.feedback, "queries": given.queries}
    found = as_json(federations, carried, flapped)
    return {"benchmark": NODES.name, **about, **found, "missed": told, **measured_on(began)}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed or missed something, 2 wrong, 130 interrupted."""
    given = options_of(argv)
    return NODES.perform(given, measure, out=given.out, missed=lambda found: bool(found["missed"]))


if __name__ == "__main__":
    sys.exit(main())
