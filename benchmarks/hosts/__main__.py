"""`python -m benchmarks.hosts`: one fleet on three hosts, each a network namespace of its own.

The first host runs everything (`run_all.py` with one encoder), two more run an encoder each, and
clients ask from a fourth; between them are cables that can be pulled. Measured is the throughput of
one host and of three; then, under load, what becomes of requests while a cable is out for 10 s, and
when everything on a host is killed. Every request has to be answered by its deadline: one that is
not is reported, and the exit code is 1.

All hosts share the cores of this machine: with two of them three encoders cannot be three times as
fast as one, whatever the network does. Needs root and iproute2. The bus is our broker on TCP with a
key for each process, or with --bus nats (or both) a NATS server on the first host.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console

from benchmarks.hosts.place import Transport
from benchmarks.hosts.run import Course, Plan, missed, run
from benchmarks.hosts.table import show
from benchmarks.kit.command import (
    Benchmark,
    Found,
    add_model,
    add_output,
    measured_on,
    progress_bar,
    typed,
)
from benchmarks.kit.fleet import FleetFailed
from benchmarks.kit.namespaces import NetworkError
from benchmarks.kit.nats import NatsFailed
from benchmarks.kit.show import machine_line
from benchmarks.nodes.children import ChildFailed

HOSTS = Benchmark(
    name="hosts",
    about=__doc__,
    wrong=(NetworkError, OSError),
    failed=(FleetFailed, ChildFailed, NatsFailed, TimeoutError),
)
BUSES: dict[str, tuple[Transport, ...]] = {
    "tcp": ("tcp",),
    "nats": ("nats",),
    "both": ("tcp", "nats"),
}


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = HOSTS.parser()
    parser.add_argument("--bus", choices=tuple(BUSES), default="tcp", help="%(default)s")
    parser.add_argument("--clients", type=int, default=48, help="at once (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="of load without a fault (%(default)s)"
    )
    parser.add_argument("--cut", type=float, default=10.0, help="seconds (%(default)s)")
    parser.add_argument(
        "--deadline", type=float, default=30.0, help="seconds of a request (%(default)s)"
    )
    parser.add_argument("--logs", type=Path, help="folder that keeps the fleets' logs")
    add_model(parser)
    add_output(parser)
    given = parser.parse_args(argv)
    if given.clients < 1 or min(given.seconds, given.cut, given.deadline) <= 0:
        parser.error("--clients, --seconds, --cut and --deadline should be more than 0")
    given.typed = typed(HOSTS.name, argv)
    return given


async def measure(given: argparse.Namespace, console: Console) -> Found:
    """All parts on each bus; raises what `HOSTS` expects."""
    began, load = time.monotonic(), os.getloadavg()[0]
    courses: list[Course] = []
    if given.logs is not None:
        given.logs.mkdir(parents=True, exist_ok=True)
    with (
        nullcontext(given.logs) if given.logs else TemporaryDirectory() as logs,
        progress_bar(console) as bar,
    ):
        task = bar.add_task("", total=len(BUSES[given.bus]))

        def say(text: str) -> None:
            bar.update(task, description=text)

        for transport in BUSES[given.bus]:
            plan = Plan(
                transport=transport,
                clients=given.clients,
                seconds=given.seconds,
                cut=given.cut,
                deadline=given.deadline,
            )
            log = Path(logs) / f"{transport}.log"
            courses.append(await run(plan, given.model, log.absolute(), say))
            bar.advance(task)
    for course in courses:
        show(course, console)
    told = [line for course in courses for line in missed(course)]
    for line in told:
        console.print(f"missed: {line}", markup=False, highlight=False)
    machine = measured_on(began)
    line = f"{machine_line(machine)}; load {load:.1f} when it began"
    console.print(line, markup=False, highlight=False)
    return {
        "name": HOSTS.name,
        "command": given.typed,
        "machine": machine,
        "load": load,
        "courses": msgspec.to_builtins(courses),
        "missed": told,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed or a request unanswered, 2 wrong or no root, 130 interrupted."""
    given = options_of(argv)
    return HOSTS.perform(given, measure, out=given.out, missed=lambda found: bool(found["missed"]))


if __name__ == "__main__":
    sys.exit(main())
