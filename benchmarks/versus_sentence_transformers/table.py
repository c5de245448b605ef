"""The figures of all runs: a table, plain sentences on who wins, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.kit.measure import figures, paired_gain, reciprocal
from benchmarks.versus_sentence_transformers.run import ROWS, Run

__all__ = ["as_json", "sentences", "show", "summary"]

THEIRS = ("theirs_recommended", "theirs_chosen")


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Of the runs of one task and size: means over seeds, and ours against the better of theirs.

    `se` is the standard error of the mean over seeds; with one seed, that of the share or mean
    over the held-out queries. Differences are paired by query, their seeds averaged first.
    """
    rows: dict[str, Any] = {}
    for row in ROWS:
        found = [figures(run.ranks[row]) for run in runs]
        queries = [run.ranks[row] for run in runs]
        rows[row] = {
            "recall": _mean([it.recall for it in found], queries[0] == 1),
            "mrr": _mean([it.mrr for it in found], reciprocal(queries[0])),
            "seconds": fmean([run.seconds.get(row, 0.0) for run in runs]),
        }
    better = max(THEIRS, key=lambda row: rows[row]["recall"]["mean"])
    against = {}
    for rival in (better, "matrix", "base"):
        recall = paired_gain(_hits(runs, rival), _hits(runs, "ours"))
        mrr = paired_gain(_reciprocals(runs, rival), _reciprocals(runs, "ours"))
        against[rival] = {"recall": recall._asdict(), "mrr": mrr._asdict()}
    return {
        "task": runs[0].task,
        "feedback": runs[0].feedback,
        "seeds": len(runs),
        "queries": len(runs[0].ranks["base"]),
        "rows": rows,
        "better_of_theirs": better,
        "ours_against": against,
        "published": {
            depth: sum(depth in run.published for run in runs) for depth in ("head", "body")
        },
        "routed": fmean([run.routed for run in runs]),
        "budget_s": fmean([run.budget_s for run in runs]),
        "passages_s": fmean([float(str(run.theirs["chosen"]["passages_s"])) for run in runs]),
    }


def sentences(found: dict[str, Any]) -> list[str]:
    """Who wins, in words: against the better of theirs, the matrix and the base model."""
    said = []
    for rival, gains in found["ours_against"].items():
        parts = []
        for measure, name in (("recall", "recall@1"), ("mrr", "MRR@10")):
            gain = gains[measure]
            interval = f"95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}"
            if gain["mean"] >= 0:
                sure = "" if gain["low"] > 0 else ", within chance"
                parts.append(f"ahead by {gain['mean']:.3f} in {name} ({interval}{sure})")
            else:
                sure = "" if gain["high"] < 0 else ", within chance"
                parts.append(f"WE LOSE by {-gain['mean']:.3f} in {name} ({interval}{sure})")
        where = f"{found['task']}, {found['feedback']:,} pieces"
        said.append(f"{where}, against {ROWS[rival]}: {'; '.join(parts)}.")
    return said


def as_json(runs: Sequence[Run], about: dict[str, Any]) -> dict[str, Any]:
    """Everything but the ranks of single queries; plain dictionaries, lists, texts and numbers."""
    rows = [
        {
            "task": run.task,
            "feedback": run.feedback,
            "seed": run.seed,
            "budget_s": run.budget_s,
            "figures": {row: figures(ranks)._asdict() for row, ranks in run.ranks.items()},
            "seconds": run.seconds,
            "routed": run.routed,
            "published": list(run.published),
            "reasons": list(run.reasons),
            "theirs": run.theirs,
        }
        for run in runs
    ]
    return {
        "benchmark": "versus_sentence_transformers",
        **about,
        "summaries": [summary(part) for part in _parts(runs)],
        "runs": rows,
    }


def show(console: Console, runs: Sequence[Run]) -> None:
    """A table for each task and size, with the sentences below it."""
    for part in _parts(runs):
        found = summary(part)
        table = Table(
            title=(
                f"{found['task']}, {found['feedback']:,} pieces of feedback; {found['queries']:,} "
                f"held-out queries; {found['seeds']} seeds; mean ± standard error"
            ),
            title_justify="left",
        )
        for name in ("", "recall@1", "MRR@10", "seconds"):
            table.add_column(name, justify="left" if not name else "right")
        for row, name in ROWS.items():
            at = found["rows"][row]
            seconds = f"{at['seconds']:.0f}" if at["seconds"] else ""
            table.add_row(name, _cell(at["recall"]), _cell(at["mrr"]), seconds)
        console.print(table)
        gate = ", ".join(f"{depth} {count}" for depth, count in found["published"].items())
        console.print(
            f"Runs that passed the gate: {gate}. Routed {found['routed']:.0%}. Embedding the "
            f"passages anew took theirs {found['passages_s']:.1f} s more.",
            highlight=False,
        )
        for sentence in sentences(found):
            console.print(sentence, highlight=False, markup=False)
        console.print()


def _parts(runs: Sequence[Run]) -> list[list[Run]]:
    keys = dict.fromkeys((run.task, run.feedback) for run in runs)
    return [[run for run in runs if (run.task, run.feedback) == key] for key in keys]


def _hits(runs: Sequence[Run], row: str) -> Any:
    return np.mean([run.ranks[row] == 1 for run in runs], axis=0)


def _reciprocals(runs: Sequence[Run], row: str) -> Any:
    return np.mean([reciprocal(run.ranks[row]) for run in runs], axis=0)


def _mean(values: Sequence[float], queries: Any) -> dict[str, float]:
    spread = np.asarray(queries, np.float64) if len(values) < 2 else None
    if spread is None:
        error = stdev(values) / len(values) ** 0.5
    else:
        error = float(spread.std(ddof=1) / len(spread) ** 0.5) if len(spread) > 1 else 0.0
    return {"mean": fmean(values), "se": error}


def _cell(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ± {value['se']:.3f}"
