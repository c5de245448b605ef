"""The run over three learned domains, and its tables."""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.kit.command import measured_on
from benchmarks.routing.domains import domains, unrelated
from benchmarks.routing.run import BASE, UNRELATED, Outcome, routing_run

__all__ = ["measure", "show"]

SETTINGS: dict[str, dict[str, Any]] = {
    "monitor": {"batch_max_age": 5.0},
    "factory": {"body_schedule": "off"},
}
WANTED_FALSE = 0.02


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
