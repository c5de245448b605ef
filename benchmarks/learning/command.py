"""The command of a benchmark that lets fleets learn: sizes, seeds, a table, a JSON object."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import sys
import time
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.learning.data import DataError, DataSet, read
from benchmarks.learning.run import Plan, Run, Say, one_run
from benchmarks.learning.table import as_json, show

__all__ = ["SETTINGS", "Benchmark", "main"]

SETTINGS: dict[str, dict[str, Any]] = {
    "monitor": {"batch_max_age": 5.0},
    "factory": {"quiet_period": 5.0},
}
"""Of every such benchmark: nobody waits for what never comes."""

Runner = Callable[[DataSet, Plan, int, int, Say], Awaitable[Run]]


@dataclass(frozen=True)
class Benchmark:
    """What makes one benchmark differ from another."""

    name: str
    """`learning`, as in `python -m benchmarks.learning`."""
    about: str
    sizes: str
    """Pieces of feedback, with commas."""
    settings: dict[str, dict[str, Any]]
    run: Runner = one_run
    """One size and seed."""


def options_of(benchmark: Benchmark, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{benchmark.name}",
        description=benchmark.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder in BANKING77's form")
    parser.add_argument("--feedback", default=benchmark.sizes, help="sizes (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each size (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=1, help="%(default)s")
    parser.add_argument("--body", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--config", type=Path, help="settings (TOML) over those of the benchmark")
    parser.add_argument("--model", help="model folder or hub id (all-MiniLM-L6-v2)")
    parser.add_argument("--workers", type=int, help="encoder processes (the fleet's default)")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds for a verdict")
    parser.add_argument("--logs", type=Path, help="folder that keeps the fleets' logs")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--out", type=Path, help="file for the JSON object")
    given = parser.parse_args(argv)
    try:
        given.sizes = [int(size) for size in given.feedback.split(",")]
    except ValueError:
        parser.error(f"--feedback should be numbers with commas, not {given.feedback!r}")
    if min(given.sizes) < 1 or given.seeds < 1:
        parser.error("--feedback and --seeds should be at least 1")
    return given


def settings_of(benchmark: Benchmark, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The benchmark's settings, those of `--config` over them."""
    merged = {name: dict(values) for name, values in benchmark.settings.items()}
    if given.config is not None:
        for name, values in tomllib.loads(given.config.read_text("utf-8")).items():
            merged.setdefault(name, {}).update(values)
    if not given.body:
        merged["factory"]["body_schedule"] = "off"
    return merged


async def measure(
    benchmark: Benchmark, given: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """All runs, one after another; a table is shown after each size."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    data = read(given.data)
    settings = settings_of(benchmark, given)
    if given.logs is not None:
        given.logs.mkdir(parents=True, exist_ok=True)
    plan = Plan(settings, given.body, given.limit, given.model, given.workers, given.logs)
    runs: list[Run] = []
    start = time.monotonic()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    with bar:
        job = bar.add_task("", total=len(given.sizes) * len(seeds))
        for size in given.sizes:
            for seed in seeds:
                name = f"{size} pieces, seed {seed}"

                def say(text: str, name: str = name) -> None:
                    bar.update(job, description=f"{name}: {text}")

                say("starting a fleet")
                run = await benchmark.run(data, plan, size, seed, say)
                runs.append(run)
                bar.advance(job)
                bar.console.print(_line(run), markup=False, highlight=False)
    show(console, runs, len(data.test), len(data.passages))
    about = {
        "data": given.data.name,
        "test": len(data.test),
        "passages": len(data.passages),
        "settings": settings,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "seconds": time.monotonic() - start,
    }
    return as_json(benchmark.name, runs, about)


def _line(run: Run) -> str:
    name = f"{run.feedback} pieces, seed {run.seed}"
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


def main(benchmark: Benchmark, argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 where every run failed, 2 for a wrong folder, 130 interrupted."""
    given = options_of(benchmark, argv)
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        found = asyncio.run(measure(benchmark, given, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    except (DataError, OSError, tomllib.TOMLDecodeError) as error:
        print(f"benchmarks.{benchmark.name}: {error}", file=sys.stderr)
        return 2
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if given.json:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(found), flush=True)
    return int(all(run["error"] is not None for run in found["runs"]))
