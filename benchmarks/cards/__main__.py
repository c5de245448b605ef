"""`python -m benchmarks.cards`: what cards cost.

forward: 64 texts at once through no card, 1, 8 and 64 distinct ones, 3 stacked; PEFT with 8.
heads: 2,048 texts over 64 heads beside the base alone. loading: from the file to the layers and
out again, a normal card and one of 50 MB, beside PEFT. registered: 10, 1,000 and 10,000 cards in
the store, Zipf traffic over 500 of them through shelf and engine, with a budget for half of them.
stored: one card that was trained, in every dtype. One thread computes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.cards.forward import heads, mixed
from benchmarks.cards.loading import come_and_go
from benchmarks.cards.material import Texts, plain_card
from benchmarks.cards.registered import REGISTERED, USED, registered
from benchmarks.cards.stored import stored
from benchmarks.cards.turns import CLOCKS, CardsError, Part, Turns
from benchmarks.kit.command import Benchmark, Found, add_model, add_output, measured_on
from benchmarks.kit.rounds import Report
from benchmarks.kit.show import show
from lora.engine import ArrowEngine
from lora.errors import LoRAError

CARDS: Final = Benchmark(
    name="cards", about=__doc__, wrong=(OSError, LoRAError, RuntimeError), failed=(CardsError,)
)
PARTS: Final = ("forward", "heads", "loading", "registered", "stored")
PACKAGES: Final = (
    "consonance",
    "torch",
    "transformers",
    "sentence-transformers",
    "peft",
    "pyarrow",
)


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CARDS.parser()
    parser.add_argument("--rounds", type=int, default=7, help="of each part (%(default)s)")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; repeatable")
    parser.add_argument("--texts", type=int, default=64, help="of one batch (%(default)s)")
    parser.add_argument("--repeat", type=int, default=2, help="batches a turn (%(default)s)")
    parser.add_argument("--bulk", type=int, default=2048, help="texts over heads (%(default)s)")
    parser.add_argument("--requests", type=int, default=512, help="of the traffic (%(default)s)")
    parser.add_argument(
        "--registered",
        default=",".join(map(str, REGISTERED)),
        help="cards in the store (%(default)s)",
    )
    parser.add_argument("--megabytes", type=int, default=50, help="of the wide card (%(default)s)")
    parser.add_argument("--steps", type=int, default=24, help="of the training (%(default)s)")
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu: others use the machine"
    )
    parser.add_argument("--seed", type=int, default=1, help="of texts (%(default)s)")
    add_model(parser)
    add_output(parser)
    given = parser.parse_args(argv)
    try:
        given.registered = [int(size) for size in given.registered.split(",")]
    except ValueError:
        parser.error(f"--registered should be numbers with commas, not {given.registered!r}")
    counts = (given.rounds, given.texts, given.repeat, given.bulk, given.requests, given.steps)
    if min(*counts, *given.registered) < 1 or not 1 <= given.megabytes <= 200:
        parser.error("numbers should be at least 1, --megabytes at most 200")
    return given


def measure(given: argparse.Namespace, console: Console) -> Found:
    """Each part after the other; raises `CardsError` where the work was not the same."""
    began = time.monotonic()
    turns = Turns(given.rounds, CLOCKS[given.clock], console)
    texts = Texts(given.seed)
    chosen = given.part or PARTS
    parts: list[Part] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = ArrowEngine(given.model, device="cpu", threads=1)
        steps: dict[str, Callable[[Path], Part]] = {
            "forward": lambda at: mixed(
                engine, texts, at, turns, count=given.texts, repeat=given.repeat
            ),
            "heads": lambda at: heads(engine, texts, turns, count=given.bulk),
            "loading": lambda at: come_and_go(engine, texts, at, turns, megabytes=given.megabytes),
            "registered": lambda at: _registered(given, texts, at, turns),
            "stored": lambda at: stored(
                engine, texts, at, turns, count=given.texts, steps=given.steps
            ),
        }
        for part, work in steps.items():
            if part in chosen:
                (folder / part).mkdir()
                parts.append(work(folder / part))
    report = Report(
        name="cards",
        command=shlex.join(["python", "-m", "benchmarks.cards", *sys.argv[1:]]),
        machine=measured_on(began),
        versions=_versions(),
        figures=tuple(it for part in parts for it in part.figures),
        comparisons=tuple(it for part in parts for it in part.comparisons),
        notes=(_by(given.clock), *(it for part in parts for it in part.notes)),
    )
    show(report, console)
    return report.found()


def _registered(given: argparse.Namespace, texts: Texts, folder: Path, turns: Turns) -> Part:
    """With an engine of its own, whose budget holds half of the cards that are asked for."""
    probe = ArrowEngine(given.model, device="cpu", threads=1)
    room = plain_card(probe, 0).nbytes * min(USED, max(given.registered)) // 2
    engine = ArrowEngine(given.model, device="cpu", threads=1, card_budget_bytes=room)
    return registered(
        engine, texts, folder, turns, room=room, count=given.requests, sizes=given.registered
    )


def _by(clock: str) -> str:
    return {
        "wall": "Times are the wall's, with one thread that computes.",
        "cpu": "Times are the process's CPU time, over all of its threads.",
    }[clock]


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    given = options_of(argv)
    return CARDS.perform(given, measure, out=given.out)


if __name__ == "__main__":
    sys.exit(main())
