"""`python -m benchmarks.routing --data FOLDER`: three learned domains, and everything else.

One fleet learns BANKING77, the standard library and the libraries of numerical work from feedback,
one after another. Then held-out queries of all three and more than a thousand questions of none are
asked in one mixture with `route: auto`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.kit.command import Benchmark, add_data, add_output, measured_on
from benchmarks.kit.fleet import FleetFailed
from benchmarks.learning.data import DataError
from benchmarks.routing.domains import domains, unrelated
from benchmarks.routing.run import BASE, UNRELATED, Outcome, routing_run

ROUTING = Benchmark(
    name="routing",
    about=__doc__,
    wrong=(DataError, OSError),
    failed=(FleetFailed, TimeoutError, RuntimeError),
)
SETTINGS: dict[str, dict[str, Any]] = {
    "monitor": {"batch_max_age": 5.0},
    "factory": {"body_schedule": "off"},
}
WANTED_FALSE = 0.02


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ROUTING.parser()
    add_data(parser)
    parser.add_argument("--feedback", type=int, default=512, help="pieces a domain (%(default)s)")
    parser.add_argument("--held-out", type=int, default=800, help="queries a domain (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="%(default)s")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for a verdict")
    parser.add_argument("--log", type=Path, help="file that keeps the fleet's log")
    add_output(parser)
    return parser.parse_args(argv)


async def measure(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The run, shown as tables; everything of it for JSON."""
    start = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - start:5.0f} s  {text}", markup=False, highlight=False)

    tasks = await asyncio.to_thread(domains, given.data, given.feedback, given.held_out, given.seed)
    strangers = unrelated()
    found = await routing_run(tasks, strangers, SETTINGS, say, limit=given.limit, log=given.log)
    show(console, found)
    about = {
        "feedback": given.feedback,
        "seed": given.seed,
        "unrelated": len(strangers),
        **measured_on(start),
    }
    return {"benchmark": "routing", **about, **asdict(found)}


def show(console: Console, found: Outcome) -> None:
    """Three tables, and whether what is wanted holds."""
    names = [it.domain for it in found.learned]
    table = Table(title="Who answered what (queries)", title_justify="left")
    for name in ("", *names, BASE):
        table.add_column(name, justify="left" if not name else "right")
    for origin in (*names, UNRELATED):
        row = found.confusion.get(origin, {})
        table.add_row(origin, *[f"{row.get(name, 0):,}" for name in (*names, BASE)])
    console.print(table)
    table = Table(title="Held-out queries: recall@1, MRR@10", title_justify="left")
    for name in ("", "base", "routed", "named", "gain in MRR@10, routed", "came to its skill"):
        table.add_column(name, justify="left" if not name else "right")
    for it in found.learned:
        cells = [
            "" if f is None else f"{f.recall:.3f}  {f.mrr:.3f}"
            for f in (it.base, it.routed, it.named)
        ]
        gain = (
            ""
            if it.gain is None
            else f"{it.gain.mean:+.3f} ({it.gain.low:+.3f} to {it.gain.high:+.3f})"
        )
        table.add_row(it.domain, *cells, gain, f"{it.share:.0%}")
    console.print(table)
    for it in found.learned:
        use = "no skill" if not it.versions else "named use only" if it.named_only else "routed"
        own, other = it.metrics.get("routed"), it.metrics.get("false_routed")
        said = (
            f"its card says: own {own:.1%}, others {other:.2%}"
            if own is not None and other is not None
            else ""
        )
        console.print(
            f"{it.domain}: {use}; {said} {' '.join(it.refusals)}", markup=False, highlight=False
        )
    console.print(f"answered by the base model: {found.reasons}", markup=False, highlight=False)
    console.print(f"accuracy over all {found.accuracy:.1%}", highlight=False)
    console.print(
        f"false-route rate {found.false_routed:.2%} (wanted: at most {WANTED_FALSE:.0%})",
        highlight=False,
    )
    worse = [
        it.domain
        for it in found.learned
        if it.base is not None and it.routed is not None and it.routed.recall < it.base.recall
    ]
    console.print(f"recall@1 below the base model's in: {', '.join(worse) or 'no domain'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 where the fleet failed, 2 for a wrong folder, 130 interrupted."""
    given = options_of(argv)
    return ROUTING.perform(
        given, lambda given, console: asyncio.run(measure(given, console)), out=given.out
    )


if __name__ == "__main__":
    sys.exit(main())
