"""`python -m tests.torture`: the long forms, their table, and what docs/reliability.md keeps.

python -m tests.torture                          all parts, each with its own budget
python -m tests.torture journal --minutes 2      one part, shorter
python -m tests.torture fleet --seed 7           the same faults again

Exit status: 0 where every promise held, 1 where one did not, 2 for an unknown part.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import traceback

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.torture import page
from tests.torture.kit import Outcome, Part, Say
from tests.torture.page import shown

PARTS = ("journal", "cluster", "disk", "fleet", "fleet_on_cluster", "overload", "input")


def load(name: str) -> Part:
    return importlib.import_module(f"tests.torture.{name}")  # type: ignore[return-value]


def once(name: str, minutes: float | None, seed: int, console: Console) -> Outcome:
    """Run one part; what it raises is a broken promise too."""
    part = load(name)
    minutes = part.MINUTES if minutes is None else minutes
    console.print(f"[bold]{name}[/]: {part.ABOUT} ({minutes:g} min, seed {seed})")
    started = time.monotonic()
    say: Say = lambda line: console.print(  # noqa: E731 (one line, used once)
        f"  {time.monotonic() - started:5.0f} s  {line}", highlight=False, markup=False
    )
    try:
        return part.run(minutes, seed, say)
    except Exception as e:  # the other parts are still to run
        traceback.print_exc()
        seconds = time.monotonic() - started
        return Outcome(name, seed, seconds, broken=(f"it ended with {type(e).__name__}: {e}",))


def table(outcomes: list[Outcome]) -> Table:
    found = Table("part", "seed", "min", "figures", "promises", show_lines=True)
    for outcome in outcomes:
        figures = "\n".join(f"{name}: {shown(value)}" for name, value in outcome.figures.items())
        figures = escape(figures)
        verdict = escape("\n".join(outcome.broken)) if outcome.broken else "all held"
        minutes = f"{outcome.seconds / 60:.1f}"
        found.add_row(outcome.part, str(outcome.seed), minutes, figures, verdict)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for, print the table, keep what was found where `--keep` says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, help="instead of each part's own budget")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--keep", action="store_true", help="write results/ and docs/reliability.md"
    )
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.parts if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}: {', '.join(PARTS)}")
    console = Console(stderr=True)
    outcomes = [once(name, asked.minutes, asked.seed, console) for name in asked.parts or PARTS]
    if asked.keep:
        page.write(outcomes)
    if asked.json:
        sys.stdout.buffer.write(msgspec.json.encode(outcomes) + b"\n")
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(table(outcomes))
    return 1 if any(outcome.broken for outcome in outcomes) else 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
