"""An evaluation as people read it, and its rankings as trec_eval does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from services.command.evaluation.folder import Collection
from services.command.evaluation.ranking import Ranked
from services.command.evaluation.report import Change, Estimate, Report, Run

__all__ = ["told", "trec_file", "verdict", "write_trec"]

_TITLES = {"ndcg": "nDCG", "mrr": "MRR", "recall": "recall"}
_WIDTH = 60


def told(report: Report) -> RenderableType:
    """The table, and what stands below it."""
    left = f"; {report.unanswerable:,} without a relevant document left out"
    head = (
        f"{report.folder}, split {report.split}: {report.documents:,} documents, "
        f"{report.queries:,} queries{left if report.unanswerable else ''}"
    )
    return Group(head, _table(report), *_below(report))


def verdict(estimate: Estimate) -> str:
    """In words, and never more than the interval says."""
    if estimate.difference is None:
        return ""
    if not estimate.proven:
        return "no difference proven"
    return "better" if estimate.difference > 0 else "worse"


def _table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("model")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("to base", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("queries +/-", justify="right")
    table.add_column("")
    for run in report.runs:
        label = run.model
        for name, it in run.measures.items():
            kind, _, cutoff = name.partition("@")
            cells = [label, f"{_TITLES[kind]}@{cutoff}", f"{it.value:.4f}"]
            if it.difference is not None:
                cells += [
                    f"{it.difference:+.4f}",
                    f"{it.low:+.4f} to {it.high:+.4f}",
                    f"{it.better}/{it.worse}",
                    verdict(it),
                ]
            table.add_row(*cells)
            label = ""
        table.add_section()
    return table


def _below(report: Report) -> Iterator[RenderableType]:
    for run in report.runs[1:]:
        yield _routed(run)
    for run in report.runs[1:]:
        if run.gained or run.lost:
            yield f"\n{run.model}, the queries that changed most: rank of the first relevant one"
            yield _changes((*run.gained, *run.lost[::-1]))
    found = report.documents - report.embedded
    yield (
        f"\nDocuments: {report.embedded:,} embedded now, {found:,} from the cache. "
        f"All of it took {report.seconds:.1f} s."
    )
    yield from report.notes


def _routed(run: Run) -> str:
    routing = run.routing
    made = ", ".join(f"{name} {count:,}" for name, count in routing.skills.items())
    base = ", ".join(f"{why} {count:,}" for why, count in routing.reasons.items())
    words = f"{run.model}: {routing.share:.0%} of the queries by a skill"
    words += f" ({made})" if made else ""
    return words + (f"; by the base model: {base}" if base else "")


def _changes(changes: Sequence[Change]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    for justify in ("right", "left", "left"):
        table.add_column(justify=justify, no_wrap=justify == "right")
    for it in changes:
        ranks = f"{it.rank_before or '-'} → {it.rank_after or '-'}"
        text = " ".join(it.query.split())
        cut = f"{text[: _WIDTH - 1]}…" if len(text) > _WIDTH else text
        table.add_row(ranks, it.query_id, cut)
    return table


def trec_file(out: Path, model: str, count: int) -> Path:
    """Where a model's run goes: `run.trec` itself, or `run.auto.trec` beside others'."""
    if count == 1:
        return out
    safe = "".join(letter if letter.isalnum() or letter in "@+._-" else "-" for letter in model)
    return out.with_name(f"{out.stem}.{safe}{out.suffix}")


def write_trec(path: Path, model: str, collection: Collection, ranked: Ranked) -> None:
    """Lines `query Q0 document rank score model`, as trec_eval reads them."""
    tag = "".join(model.split())
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            for query, numbers, scores in zip(
                collection.queries, ranked.documents, ranked.scores, strict=True
            ):
                for rank, (number, score) in enumerate(zip(numbers, scores, strict=True), 1):
                    if number < 0:
                        break
                    file.write(f"{query.id} Q0 {collection.ids[number]} {rank} {score:.6f} {tag}\n")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
