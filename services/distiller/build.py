"""From a domain's experience to a training dataset; pure, nothing here waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora.training.dataset import FEEDBACK, Label, TrainingSet
from lora.training.gate import masks, unit
from services.distiller.experience import Experience
from services.distiller.teacher import Contribution

__all__ = ["MINED", "Vectors", "build"]

MINED = "mined"
"""Source of hard negatives that nobody labelled."""

_BLOCK = 512

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """Base vectors (dim,) by text."""

    queries: Mapping[str, Vector]
    passages: Mapping[str, Vector]


def build(
    experience: Experience,
    contribution: Contribution,
    vectors: Vectors,
    *,
    domain: str,
    teacher: str,
    hard_negatives: int,
    metadata: Mapping[str, str],
) -> TrainingSet:
    """The dataset of a domain: feedback, what the teacher adds, and mined hard negatives.

    Queries to which nothing is known to be relevant teach nothing and are left out, counted in the
    metadata; their passages stay as candidates. Raises `lora.training.errors.DatasetError`.
    """
    kept = [query for query in experience.queries if query.relevant]
    passages = list(dict.fromkeys(experience.passages.values()))
    place = {text: row for row, text in enumerate(passages)}
    queries = [query.text for query in kept]
    groups = [query.group for query in kept]
    folds = [query.fold for query in kept]
    labels: list[Label] = [
        (row, place[experience.passages[key]], value, FEEDBACK)
        for row, query in enumerate(kept)
        for key, value in sorted(query.labels.items())
    ]
    dropped = _teach(contribution, teacher, queries, groups, folds, place, labels)
    found = TrainingSet.build(
        queries=queries,
        query_vectors=_stack([vectors.queries[text] for text in queries]),
        groups=groups,
        folds=folds,
        passages=passages,
        passage_vectors=_stack([vectors.passages[text] for text in passages]),
        labels=labels,
    )
    return TrainingSet.build(
        queries=queries,
        query_vectors=found.query_vectors,
        groups=groups,
        folds=folds,
        passages=passages,
        passage_vectors=found.passage_vectors,
        labels=[*labels, *_mined(found, hard_negatives)],
        metadata={
            **metadata,
            "domain": domain,
            "teacher": teacher,
            "dropped.without_relevant": str(len(experience.queries) - len(kept)),
            "dropped.teacher": str(dropped),
        },
    )


def _teach(
    contribution: Contribution,
    teacher: str,
    queries: list[str],
    groups: list[int],
    folds: list[int],
    place: Mapping[str, int],
    labels: list[Label],
) -> int:
    """Add a teacher's pairs, each in the group and fold of its origin; how many were dropped.

    Dropped are pairs of unknown passages or origins, and those whose query people have asked: what
    they said of it holds, and it may lie in another fold.
    """
    real = {text: row for row, text in enumerate(queries)}
    added: dict[tuple[str, int], int] = {}
    said = {(row, passage) for row, passage, _, _ in labels}
    dropped = 0
    for pair in contribution.pairs:
        origin, passage = real.get(pair.origin or ""), place.get(pair.passage)
        if origin is None or passage is None:
            dropped += 1
        elif pair.query == pair.origin and (origin, passage) not in said:
            labels.append((origin, passage, pair.value, teacher))
        elif pair.query in real:
            dropped += 1
        else:
            row = added.setdefault((pair.query, groups[origin]), len(queries))
            if row == len(queries):
                queries.append(pair.query)
                groups.append(groups[origin])
                folds.append(folds[origin])
            labels.append((row, passage, pair.value, teacher))
    return dropped


def _mined(data: TrainingSet, count: int) -> list[Label]:
    """The `count` nearest passages of each query that nobody labelled and no mask hides."""
    if not count or not len(data.passages):
        return []
    labelled: dict[int, list[int]] = {}
    for row, passage in zip(data.label_query.tolist(), data.label_passage.tolist(), strict=True):
        labelled.setdefault(row, []).append(passage)
    everything = unit(data.passage_vectors)
    found: list[Label] = []
    for start in range(0, len(data.queries), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(data.queries)))
        similarities = unit(data.query_vectors[rows]) @ everything.T
        _, hidden = masks(data, rows, similarities)
        for at, row in enumerate(rows.tolist()):
            hidden[at, labelled.get(row, [])] = True
        similarities[hidden] = -np.inf
        nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
        found += [
            (row, passage, 0.0, MINED)
            for at, row in enumerate(rows.tolist())
            for passage in nearest[at].tolist()
            if np.isfinite(similarities[at, passage])
        ]
    return found


def _stack(vectors: Sequence[Vector]) -> Vector:
    return np.stack(vectors) if vectors else np.zeros((0, 1), np.float32)
