"""The figures of all runs: means and spread, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.learning.run import Run

__all__ = ["as_json", "show", "summary"]

ROUTES = ("base", "head", "final", "auto", "matrix", "ungated")


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Of the runs of one size that did not fail: mean and standard deviation over seeds."""
    done = [run for run in runs if run.error is None]
    found: dict[str, Any] = {
        "feedback": runs[0].feedback,
        "bus": runs[0].bus,
        "seeds": len(runs),
        "failed": len(runs) - len(done),
        "head_published": sum(run.head_published > 0 for run in done),
        "body_published": sum(run.body_published > 0 for run in done),
    }
    for route in ROUTES:
        rows = [getattr(run, route) for run in done if getattr(run, route) is not None]
        found[route] = (
            {"recall": _spread([it.recall for it in rows]), "mrr": _spread([it.mrr for it in rows])}
            if rows
            else None
        )
    for name in ("head_s", "body_s", "routed", "journal_bytes"):
        values = [getattr(run, name) for run in done if getattr(run, name) is not None]
        found[name] = {**_spread(values), "max": max(values)} if values else None
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": fmean(values), "sd": stdev(values) if len(values) > 1 else 0.0}


def as_json(name: str, runs: Sequence[Run], about: dict[str, Any]) -> dict[str, Any]:
    """Everything, each run included; plain dictionaries, lists, texts and numbers."""
    rows = []
    for run in runs:
        row = asdict(run)
        for route in ROUTES:
            value = getattr(run, route)
            row[route] = None if value is None else value._asdict()
        rows.append(row)
    return {"benchmark": name, **about, "sizes": _summaries(runs), "runs": rows}


def _summaries(runs: Sequence[Run]) -> list[dict[str, Any]]:
    kinds = list(dict.fromkeys((run.feedback, run.bus) for run in runs))
    return [summary([run for run in runs if (run.feedback, run.bus) == kind]) for kind in kinds]


def show(console: Console, runs: Sequence[Run], tests: int, passages: int) -> None:
    """The table for people, and below it what failed."""
    summaries = _summaries(runs)
    table = Table(
        title=f"{tests:,} test queries, {passages} passages; mean ± standard deviation over seeds",
        title_justify="left",
    )
    table.add_column("")
    for found in summaries:
        which = "" if found["bus"] == "zeromq" else f", {found['bus']}"
        table.add_column(f"{found['feedback']:,} pieces{which}", justify="right")
    names = {
        "base": "base model",
        "head": "after the head's verdict, named",
        "final": "in the end, named",
        "auto": "in the end, route auto",
        "matrix": "full-rank query matrix",
        "ungated": "a head without a gate",
    }
    for measure, title in (("recall", "recall@1"), ("mrr", "MRR@10")):
        for route in ROUTES:
            cells = [_cell(found[route] and found[route][measure]) for found in summaries]
            table.add_row(f"{title}, {names[route]}", *cells, end_section=route == ROUTES[-1])
    table.add_row("share routed by auto", *[_cell(found["routed"]) for found in summaries])
    for depth in ("head", "body"):
        cells = [
            f"{found[f'{depth}_published']} of {found['seeds'] - found['failed']}"
            for found in summaries
        ]
        table.add_row(f"runs that published a {depth}", *cells)
    for depth in ("head", "body"):
        cells = [
            f"{it['mean']:.0f}, at most {it['max']:.0f}" if (it := found[f"{depth}_s"]) else ""
            for found in summaries
        ]
        table.add_row(f"seconds to the verdict on the {depth}", *cells)
    table.add_row("runs that failed", *[str(found["failed"]) for found in summaries])
    console.print(table)
    for run in runs:
        if run.error is not None:
            console.print(f"{run.feedback} pieces, seed {run.seed}: {run.error}", markup=False)


def _cell(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['mean']:.3f} ± {value['sd']:.3f}"
