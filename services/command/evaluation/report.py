"""What an evaluation found, as data: the table, the JSON and the words are made from it."""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

__all__ = ["DEFINITIONS", "Change", "Estimate", "Report", "Routing", "Run"]

DEFINITIONS: Final = {
    "ndcg": "gain is the relevance itself, discount log2(rank + 1): ndcg_cut of trec_eval",
    "mrr": "1 / rank of the first document with a relevance above 0, 0 beyond the cutoff",
    "recall": "share of the documents with a relevance above 0 that is within the cutoff",
    "interval": "95 %, percentile bootstrap of the paired difference to base over queries, "
    "10,000 resamples, seed 0",
    "score": "cosine, to six decimals; ties go to the greater id, as in trec_eval",
}


class Estimate(Struct, frozen=True, kw_only=True):
    """One measure of one run: the mean over queries, and how it differs from base."""

    value: float
    """0 to 1."""
    difference: float | None = None
    """Value minus that of base; null for base itself, as all below."""
    low: float | None = None
    high: float | None = None
    better: int | None = None
    """Queries that gained."""
    worse: int | None = None
    proven: bool | None = None
    """The interval does not hold 0, and more than a handful of queries differ."""


class Routing(Struct, frozen=True, kw_only=True):
    """What made the queries' vectors."""

    share: float
    """Of the queries that a skill made, 0 to 1."""
    skills: dict[str, int]
    """Queries by `name@version`; where several stack, joined by `+`."""
    reasons: dict[str, int]
    """Queries without a skill, by why."""


class Change(Struct, frozen=True, kw_only=True):
    """A query whose answer is another one than that of base."""

    query_id: str
    query: str
    before: float
    """nDCG by base."""
    after: float
    rank_before: int | None
    """Rank of the first relevant document; null beyond the depth."""
    rank_after: int | None


class Run(Struct, frozen=True, kw_only=True):
    """One way of asking."""

    model: str
    """`base`, `auto`, or the skills that were named."""
    measures: dict[str, Estimate]
    """By name and cutoff: `ndcg@10`."""
    routing: Routing
    gained: tuple[Change, ...] = ()
    """The five queries that gained most nDCG, most first."""
    lost: tuple[Change, ...] = ()
    """The five that lost most."""


class Report(Struct, frozen=True, kw_only=True):
    """A whole evaluation."""

    folder: str
    split: str
    documents: int
    queries: int
    unanswerable: int
    """Queries left out, as no document is relevant to them."""
    model: str
    """The fleet's model."""
    k: int
    runs: tuple[Run, ...]
    """Base first."""
    embedded: int
    """Documents embedded now; the others' vectors were found."""
    seconds: float
    """What all of it took."""
    notes: tuple[str, ...] = ()
    definitions: dict[str, str] = field(default_factory=lambda: dict(DEFINITIONS))
