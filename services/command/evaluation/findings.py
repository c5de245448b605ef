"""From rankings to figures: what each way of asking found, held against base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas import CompletedRow
from services.command.evaluation import measures
from services.command.evaluation.folder import Query
from services.command.evaluation.ranking import Ranked
from services.command.evaluation.report import Change, Estimate, Routing, Run

__all__ = ["DEPTH", "Findings"]

DEPTH: Final = 100
"""Documents of each query that are looked at, and the second cutoff of recall."""

EXAMPLES: Final = 5
"""Queries shown that gained, and that lost."""


class Findings:
    """One way of asking, measured query by query."""

    def __init__(self, queries: Sequence[Query], ranked: Ranked, k: int) -> None:
        self.queries = queries
        relevance = np.zeros(ranked.documents.shape, np.int64)
        for row, query in enumerate(queries):
            said = query.relevance.get
            relevance[row] = [said(number, 0) for number in ranked.documents[row].tolist()]
        judged = [tuple(query.relevance.values()) for query in queries]
        relevant = [sum(value > 0 for value in values) for values in judged]
        self.measures: dict[str, npt.NDArray[np.float64]] = {
            f"ndcg@{k}": measures.ndcg(relevance, judged, k),
            f"mrr@{k}": measures.reciprocal_rank(relevance, k),
        }
        """(queries,) each."""
        for cutoff in sorted({k, DEPTH}):
            self.measures[f"recall@{cutoff}"] = measures.recall(relevance, relevant, cutoff)
        hit = relevance > 0
        self.first = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)
        """(queries,) rank of the first relevant document, 0 where it is not in the list."""

    def run(self, model: str, rows: Sequence[CompletedRow], base: Findings) -> Run:
        """What is told of it; `base` itself is held against nothing."""
        if base is self:
            plain = {name: Estimate(value=float(it.mean())) for name, it in self.measures.items()}
            return Run(model=model, measures=plain, routing=_routing(rows))
        before, after = (np.column_stack(list(it.measures.values())) for it in (base, self))
        estimates = {
            name: Estimate(
                value=float(it.mean()),
                difference=found.mean,
                low=found.low,
                high=found.high,
                better=found.better,
                worse=found.worse,
                proven=found.proven,
            )
            for (name, it), found in zip(
                self.measures.items(), measures.compare(before, after), strict=True
            )
        }
        changed = after[:, 0] - before[:, 0]
        order = np.argsort(changed, kind="stable")
        return Run(
            model=model,
            measures=estimates,
            routing=_routing(rows),
            gained=tuple(
                self._change(int(i), base) for i in order[::-1][:EXAMPLES] if changed[i] > 0
            ),
            lost=tuple(self._change(int(i), base) for i in order[:EXAMPLES] if changed[i] < 0),
        )

    def _change(self, index: int, base: Findings) -> Change:
        before, after = (next(iter(it.measures.values()))[index] for it in (base, self))
        return Change(
            query_id=self.queries[index].id,
            query=self.queries[index].text,
            before=float(before),
            after=float(after),
            rank_before=int(base.first[index]) or None,
            rank_after=int(self.first[index]) or None,
        )


def _routing(rows: Sequence[CompletedRow]) -> Routing:
    made = [row for row in rows if row.skills]
    skills = Counter("+".join(f"{it.name}@{it.version}" for it in row.skills) for row in made)
    reasons = Counter(row.reason or "unknown" for row in rows if not row.skills)
    return Routing(
        share=len(made) / len(rows),
        skills=dict(skills.most_common()),
        reasons=dict(reasons.most_common()),
    )
