"""`python -m benchmarks.gate --data FOLDER`: poisoned knowledge is refused, useful is not.

For each seed a batch of feedback is drawn from the training file, its labels are left alone,
shuffled or made wrong, and the factory's own recipe for heads and its gate are run on it, from
vectors that were computed once. What is published, and what it does to clean queries that nobody
learned from, is counted. Bodies take minutes each and are left out; their gate is the same.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gate.conditions import CONDITIONS, Condition
from benchmarks.gate.figures import as_json, show, summarised
from benchmarks.gate.material import embed, split
from benchmarks.gate.trial import ANCHORS, Trial, one_seed
from benchmarks.kit.child import THREAD_VARIABLES, die_with_parent
from benchmarks.kit.command import (
    Benchmark,
    add_data,
    add_model,
    add_output,
    add_seeds,
    measured_on,
    progress_bar,
    seeds_of,
)
from benchmarks.learning.data import DataError, DataSet, read
from lora.errors import LoRAError
from lora.training.sweep_config import GRID

GATE = Benchmark(name="gate", about=__doc__, width=150, wrong=(DataError, LoRAError, OSError))


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = GATE.parser()
    add_data(parser)
    add_seeds(parser, 100, "draws")
    parser.add_argument("--feedback", type=int, default=256, help="pieces a batch (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at once (%(default)s)")
    names = ",".join(condition.name for condition in CONDITIONS)
    parser.add_argument("--conditions", default=names, help="%(default)s")
    parser.add_argument(
        "--held-out",
        choices=("test", "train"),
        default="test",
        help="what is measured: the test file, or, for development, a part of the training file",
    )
    add_model(parser)
    add_output(parser)
    given = parser.parse_args(argv)
    known = {condition.name: condition for condition in CONDITIONS}
    chosen = given.conditions.split(",")
    if unknown := sorted(set(chosen) - set(known)):
        parser.error(f"--conditions names {', '.join(unknown)}; there are {names}")
    if min(given.seeds, given.feedback, given.jobs) < 1:
        parser.error("--seeds, --feedback and --jobs should be at least 1")
    given.chosen = tuple(known[name] for name in dict.fromkeys(chosen))
    return given


def measure(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All seeds, several at once; what each published is shown as it comes."""
    data = split(read(given.data), given.held_out)
    if 2 * given.feedback + ANCHORS > len(data.train):
        raise DataError(
            f"two batches of {given.feedback} pieces and {ANCHORS} anchors are more than the "
            f"{len(data.train)} training queries"
        )
    seeds = seeds_of(given)
    began = time.monotonic()
    found: list[Trial] = []
    with (
        tempfile.TemporaryDirectory(prefix="consonance-gate-") as place,
        progress_bar(console) as bar,
    ):
        job = bar.add_task("embedding everything once", total=None)
        folder = Path(place)
        embed(data, given.model, given.jobs).write(folder)
        bar.update(job, description="seeds", total=len(seeds), completed=0)
        for some in _all_trials(folder, given.chosen, seeds, given.feedback, given.jobs):
            found += some
            bar.advance(job)
            bar.console.print(_line(some), markup=False, highlight=False)
    place_of = {condition.name: place for place, condition in enumerate(given.chosen)}
    found.sort(key=lambda trial: (place_of[trial.condition], trial.seed))
    summaries = [
        summarised(each, [t for t in found if t.condition == each.name], len(GRID))
        for each in given.chosen
    ]
    show(console, summaries, len(data.test), given.feedback)
    return as_json(summaries, found, _about(given, data, began))


def _all_trials(
    folder: Path, conditions: tuple[Condition, ...], seeds: Sequence[int], feedback: int, jobs: int
) -> Iterator[list[Trial]]:
    """The trials of each seed, as they are done."""
    # Each process trains on one thread, as the factory's child does; NumPy's BLAS reads these
    # once, at its import.
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    fresh = multiprocessing.get_context("spawn")
    count = min(jobs, len(seeds))
    with ProcessPoolExecutor(count, mp_context=fresh, initializer=die_with_parent) as pool:
        try:
            asked = [pool.submit(one_seed, folder, conditions, seed, feedback) for seed in seeds]
            for done in as_completed(asked):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _line(some: Sequence[Trial]) -> str:
    published = [trial.condition for trial in some if trial.published]
    worse = [trial.condition for trial in some if trial.published and trial.worse]
    told = f"seed {some[0].seed}: published {', '.join(published) or 'nothing'}"
    return f"{told}; worse than served: {', '.join(worse)}" if worse else told


def _about(given: argparse.Namespace, data: DataSet, began: float) -> dict[str, Any]:
    return {
        "data": given.data.name,
        "held_out": given.held_out,
        "queries": len(data.test),
        "passages": len(data.passages),
        "feedback": given.feedback,
        "seeds": given.seeds,
        "first_seed": given.first_seed,
        "depth": "head",
        **measured_on(began),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 every promise held, 1 one did not, 2 for a wrong folder, 130 interrupted."""
    given = options_of(argv)
    return GATE.perform(
        given,
        measure,
        out=given.out,
        missed=lambda found: any(row["holds"] is False for row in found["conditions"]),
    )


if __name__ == "__main__":
    sys.exit(main())
