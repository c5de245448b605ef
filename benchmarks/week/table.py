"""The week in words: each evening, and what became of the skill."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.week.history import Entry
from benchmarks.week.run import Week

__all__ = ["as_json", "day_of", "show"]


def show(console: Console, week: Week) -> None:
    """Print evenings, history and counts."""
    evenings = Table(box=box.SIMPLE_HEAD, title="Each evening, on held-out questions")
    for name in ("day", "categories", "feedback", "questions"):
        evenings.add_column(name, justify="left" if name == "day" else "right")
    for name in ("recall@1 base", "fleet", "MRR@10 base", "fleet", "routed", "version"):
        evenings.add_column(name, justify="right")
    for it in week.evenings:
        evenings.add_row(
            it.day.name + (" (half wrong)" if it.day.wrong else ""),
            str(len(it.day.categories)),
            str(it.feedback),
            str(it.base.queries),
            f"{it.base.recall:.3f}",
            f"{it.fleet.recall:.3f}",
            f"{it.base.mrr:.3f}",
            f"{it.fleet.mrr:.3f}",
            f"{it.routed:.0%}",
            "" if it.version is None else str(it.version),
        )
    console.print(evenings)
    if week.history is not None:
        console.print(_history(week))
    for line in _counts(week):
        console.print(line, markup=False, highlight=False)


def _history(week: Week) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="The history of the skill")
    for name in ("day", "what", "depth"):
        table.add_column(name, no_wrap=True)
    table.add_column("gate: MRR@10", no_wrap=True)
    for name in ("groups", "attempt", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why")
    for entry in week.history.entries if week.history else ():
        gate = ""
        if entry.before is not None and entry.after is not None:
            gate = f"{entry.before:.3f} → {entry.after:.3f}"
            if entry.low is not None and entry.high is not None:
                gate += f" ({entry.low:+.3f} to {entry.high:+.3f})"
        name = "" if entry.version is None else f" {entry.version}"
        table.add_row(
            day_of(week, entry.at),
            f"{entry.kind}{name}",
            f"{entry.depth or ''}",
            gate,
            "" if entry.groups is None else str(int(entry.groups)),
            "" if entry.attempts is None else str(entry.attempts),
            "" if entry.seconds is None else f"{entry.seconds:.0f}",
            _why(entry),
        )
    return table


def _why(entry: Entry) -> str:
    if entry.kind == "published":
        return "named use only" if entry.routed is None else f"keeps {entry.routed:.0%} of its own"
    told = entry.reason.removeprefix(f"{entry.depth}: ")
    return told if entry.before is None else told.partition(":")[0]


def day_of(week: Week, at: float) -> str:
    """The name of the day on which something happened, from its night to the next."""
    names = [it.day.name for it in week.evenings]
    for number, (begin, end) in enumerate(pairwise(week.nights)):
        if begin <= at < end:
            return names[number] if number < len(names) else f"day {number + 1}"
    return "after"


def _counts(week: Week) -> list[str]:
    killed = ", ".join(it.service for it in week.kills) or "nobody"
    lines = [
        f"{week.answered:,} requests answered, {len(week.failures)} failed; one text at a time: "
        f"median {week.p50_ms:.0f} ms, 99 of 100 within {week.p99_ms:.0f} ms",
        f"killed: {killed}",
    ]
    lines += [f"  failed: {it}" for it in week.failures[:5]]
    if week.history is not None:
        found = week.history
        lines.append(
            f"feedback: {week.given} pieces given, {found.judged} judged, {found.twice} twice; "
            f"{found.tasks} trainings asked for, {found.superseded} superseded by newer ones"
        )
    return lines


def as_json(week: Week, about: dict[str, Any]) -> dict[str, Any]:
    """Everything; plain dictionaries, lists, texts and numbers."""
    evenings = [
        {
            "day": it.day.name,
            "categories": len(it.day.categories),
            "wrong": len(it.day.wrong),
            "feedback": it.feedback,
            "questions": it.base.queries,
            "base": {"recall": it.base.recall, "mrr": it.base.mrr},
            "fleet": {"recall": it.fleet.recall, "mrr": it.fleet.mrr},
            "routed": it.routed,
            "version": it.version,
        }
        for it in week.evenings
    ]
    history = None if week.history is None else asdict(week.history)
    if history is not None:
        for entry in history["entries"]:
            entry["day"] = day_of(week, entry["at"])
    return {
        "benchmark": "week",
        **about,
        "evenings": evenings,
        "history": history,
        "kills": [{"service": it.service, "at": it.at - week.nights[0]} for it in week.kills],
        "given": week.given,
        "answered": week.answered,
        "failed": len(week.failures),
        "failures": week.failures,
        "p50_ms": week.p50_ms,
        "p99_ms": week.p99_ms,
    }
