"""Shares over seeds with exact intervals: for people, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gate.conditions import Condition
from benchmarks.gate.trial import Trial

__all__ = ["Share", "Summary", "as_json", "exact_interval", "show", "summarised"]

CONFIDENCE = 0.95
_HALVINGS = 60


@dataclass(frozen=True)
class Share:
    """So many of so many, with the exact two-sided 95 % interval of the share behind it."""

    count: int
    of: int
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What all seeds of one condition came to."""

    condition: Condition
    skipped: int
    """Seeds without a version to be served first."""
    published: Share
    named_only: int
    """Of the published: for named use only."""
    worse: Share
    """Of the published: lower in recall@1 or MRR@10 than what was served, by however little."""
    surely_worse: int
    """Of the published: worse with the whole interval of the difference in MRR@10."""
    refused_better: Share
    """Of the refused: better in both than what was served."""
    recall_gain: float | None
    """Mean over the published, on the held-out queries; None where there are none."""
    mrr_gain: float | None
    seconds: float
    """Mean time of training and gate."""
    cut_short: int
    """Trials whose time budget did not do for the whole sweep."""
    holds: bool | None
    """Whether the promise of the condition held for these seeds; None: it has none."""


def exact_interval(count: int, of: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided interval of a binomial share (Clopper and Pearson, Biometrika 26, 1934)."""
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else _solve(lambda p: 1 - _at_most(count - 1, of, p) < tail)
    high = 1.0 if count == of else _solve(lambda p: _at_most(count, of, p) > tail)
    return low, high


def _at_most(count: int, of: int, share: float) -> float:
    """The chance of at most `count` of `of`."""
    return math.fsum(
        math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(count + 1)
    )


def _solve(below: Any) -> float:
    """The share up to which `below` holds, by halving."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


def summarised(condition: Condition, trials: Sequence[Trial], sweep: int) -> Summary:
    """All trials of one condition; `sweep` settings make a whole sweep."""
    done = [trial for trial in trials if not trial.skipped]
    published = [trial for trial in done if trial.published]
    refused = [trial for trial in done if not trial.published]
    worse = [trial for trial in published if trial.worse]
    gains = [
        (trial.after.recall - trial.before.recall, trial.after.mrr - trial.before.mrr)
        for trial in published
        if trial.after is not None and trial.before is not None
    ]
    share = _share(len(published), len(done))
    promises = []
    if condition.most is not None:
        promises.append(share.count <= condition.most * share.of)
    if condition.least is not None:
        promises.append(share.count >= condition.least * share.of)
    if condition.harmless:
        promises.append(not worse)
    return Summary(
        condition=condition,
        skipped=len(trials) - len(done),
        published=share,
        named_only=sum(trial.named_only for trial in published),
        worse=_share(len(worse), len(published)),
        surely_worse=sum(trial.surely_worse for trial in published),
        refused_better=_share(sum(trial.better for trial in refused), len(refused)),
        recall_gain=fmean(gain for gain, _ in gains) if gains else None,
        mrr_gain=fmean(gain for _, gain in gains) if gains else None,
        seconds=fmean(trial.seconds for trial in done) if done else 0.0,
        cut_short=sum(trial.tried < sweep for trial in done),
        holds=all(promises) if promises and done else None,
    )


def _share(count: int, of: int) -> Share:
    return Share(count, of, *(exact_interval(count, of) if of else (0.0, 1.0)))


def as_json(
    summaries: Sequence[Summary], trials: Sequence[Trial], about: dict[str, Any]
) -> dict[str, Any]:
    """Everything, each trial included; plain dictionaries, lists, texts and numbers."""
    rows = []
    for trial in trials:
        row = asdict(trial)
        for name in ("before", "after", "gain"):
            value = getattr(trial, name)
            row[name] = None if value is None else value._asdict()
        rows.append(row)
    return {
        "benchmark": "gate",
        **about,
        "conditions": [asdict(summary) for summary in summaries],
        "trials": rows,
    }


def show(console: Console, summaries: Sequence[Summary], held_out: int, feedback: int) -> None:
    """The table for people."""
    table = Table(
        title=f"{feedback} pieces of feedback a batch; measured on {held_out:,} held-out queries, "
        "as routed; 95 % intervals",
        title_justify="left",
    )
    table.add_column("labels")
    for name in ("published", "wanted", "holds", "worse than served", "recall@1", "MRR@10"):
        table.add_column(name, justify="right")
    table.add_column("refused, but better", justify="right")
    for found in summaries:
        table.add_row(
            found.condition.title,
            _cell(found.published),
            _wanted(found.condition),
            {None: "", True: "yes", False: "no"}[found.holds],
            _cell(found.worse),
            _gain(found.recall_gain),
            _gain(found.mrr_gain),
            _cell(found.refused_better),
        )
    console.print(table)
    for found in summaries:
        notes = []
        if found.skipped:
            notes.append(f"{found.skipped} seeds had no version to be served first")
        if found.cut_short:
            notes.append(f"{found.cut_short} sweeps were cut short by their time budget")
        if found.named_only:
            notes.append(f"{found.named_only} of the published are for named use only")
        if notes:
            console.print(f"{found.condition.title}: {'; '.join(notes)}", markup=False)


def _wanted(condition: Condition) -> str:
    parts = []
    if condition.most is not None:
        parts.append(f"≤ {condition.most:.0%}")
    if condition.least is not None:
        parts.append(f"≥ {condition.least:.0%}")
    if condition.harmless:
        parts.append("none worse")
    return ", ".join(parts)


def _cell(share: Share) -> str:
    if not share.of:
        return ""
    return f"{share.count} of {share.of} ({share.low:.0%} to {share.high:.0%})"


def _gain(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"
