"""`python -m benchmarks.versus_sentence_transformers --data FOLDER`: against the obvious tool.

The same feedback goes to both, the same held-out queries are ranked, and their training gets as
many seconds as ours took. Ours bends queries; theirs tunes both sides and embeds all passages anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.kit.command import (
    Benchmark,
    add_model,
    add_output,
    add_seeds,
    measured_on,
    seeds_of,
    sizes_of,
)
from benchmarks.kit.measure import figures
from benchmarks.learning.data import DataError
from benchmarks.versus_sentence_transformers.clock import CLOCKS
from benchmarks.versus_sentence_transformers.run import Bench, Run
from benchmarks.versus_sentence_transformers.table import as_json, show
from benchmarks.versus_sentence_transformers.tasks import TASKS, task
from lora.errors import LoRAError

VERSUS = Benchmark(
    name="versus_sentence_transformers",
    about=__doc__,
    wrong=(DataError,),
    failed=(RuntimeError, LoRAError, OSError),
)


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = VERSUS.parser()
    parser.add_argument("--data", type=Path, help="folder in BANKING77's form, for banking77")
    parser.add_argument("--tasks", default=",".join(TASKS), help="%(default)s")
    parser.add_argument("--feedback", default="256,1024", help="sizes (%(default)s)")
    add_seeds(parser, 3, "runs of each size")
    parser.add_argument(
        "--split",
        choices=("test", "internal"),
        default="test",
        help="internal: a third of the training half is held out, for development (%(default)s)",
    )
    add_model(parser)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(%(default)s)")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="what equal time is counted in; cpu: where others use the machine too (%(default)s)",
    )
    add_output(parser)
    given = parser.parse_args(argv)
    given.sizes = sizes_of(parser, given)
    given.names = given.tasks.split(",")
    if unknown := sorted(set(given.names) - set(TASKS)):
        parser.error(f"--tasks knows {', '.join(TASKS)}, not {', '.join(unknown)}")
    if "banking77" in given.names and given.data is None:
        parser.error("--data should name the folder of banking77")
    if min(given.sizes) < 16 or given.seeds < 1 or given.threads < 1:
        parser.error("--feedback should be at least 16, --seeds and --threads at least 1")
    return given


def measure(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All runs, one after another; the order of ours and theirs alternates over the seeds."""
    runs: list[Run] = []
    start = time.monotonic()
    for name in given.names:
        data = task(name, given.data, given.split)
        bench = Bench(name, data, model=given.model, threads=given.threads, clock=given.clock)
        for size in given.sizes:
            for number, seed in enumerate(seeds_of(given)):
                label = f"{name}, {size} pieces, seed {seed}"
                with console.status(label) as status:

                    def say(text: str, label: str = label, status: Any = status) -> None:
                        status.update(f"{label}: {text}")

                    run = bench.run(size, seed, say, theirs_first=number % 2 == 1)
                runs.append(run)
                console.print(_line(label, run), markup=False, highlight=False)
    console.print()
    show(console, runs)
    about = {
        "split": given.split,
        "clock": given.clock,
        "threads": given.threads,
        "versions": {name: version(name) for name in ("sentence-transformers", "peft", "torch")},
        **measured_on(start),
    }
    return as_json(runs, about)


def _line(label: str, run: Run) -> str:
    parts = [f"{row} {figures(ranks).recall:.3f}" for row, ranks in run.ranks.items()]
    gate = " and ".join(run.published) or "nothing"
    rate = run.theirs["chosen"]["learning_rate"]
    return (
        f"{label}: recall@1 {', '.join(parts)}; {gate} passed the gate; ours took "
        f"{run.seconds['ours']:.0f} s; theirs chose the learning rate {rate:g}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 for wrong data, 130 interrupted."""
    given = options_of(argv)
    return VERSUS.perform(given, measure, out=given.out)


if __name__ == "__main__":
    sys.exit(main())
