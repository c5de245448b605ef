"""What stands beside the fleet's cards: trained here, on the same feedback and base vectors.

The full-rank query matrix is the baseline that every published figure stands beside. The head
without a gate is the factory's own recipe, applied to queries whether it would pass or not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.kit.measure import Figures, best_wrong, figures, ranks_of
from benchmarks.learning.data import DataSet, Queries
from lora.head import bend
from lora.training.baseline import fit_full_rank
from lora.training.dataset import FEEDBACK, Label, TrainingSet
from lora.training.folds import assign_groups, fold_of
from lora.training.gate import Arena
from lora.training.sweep import train_head

__all__ = ["References", "Vectors", "references", "training_set"]


class Vectors(NamedTuple):
    """Base vectors as the fleet gave them, (n, dim) each."""

    passages: npt.NDArray[np.float32]
    feedback: npt.NDArray[np.float32]
    test: npt.NDArray[np.float32]


class References(NamedTuple):
    """Figures on the whole test set."""

    matrix: Figures
    head: Figures


def training_set(data: DataSet, given: Queries, vectors: Vectors) -> TrainingSet:
    """The feedback as the distiller would lay it down: its queries, and the passages it names."""
    wrong = best_wrong(vectors.feedback, vectors.passages, given.own)
    named = sorted({*given.own, *(index for row in wrong for index in row)})
    place = {index: row for row, index in enumerate(named)}
    labels: list[Label] = []
    for query, (own, row) in enumerate(zip(given.own, wrong, strict=True)):
        labels.append((query, place[own], 1.0, FEEDBACK))
        labels += [(query, place[index], 0.0, FEEDBACK) for index in row]
    groups = assign_groups(given.texts, vectors.feedback)
    return TrainingSet.build(
        queries=given.texts,
        query_vectors=vectors.feedback,
        groups=groups,
        folds=[fold_of(int(group)) for group in groups],
        passages=[data.passages[index] for index in named],
        passage_vectors=vectors.passages[named],
        labels=labels,
    )


def references(data: DataSet, given: Queries, vectors: Vectors) -> References:
    """Train both, and rank the test set."""
    learned = training_set(data, given, vectors)
    arena = Arena(learned)
    own = np.array(data.test.own)
    matrix = fit_full_rank(learned)
    head = train_head(learned, arena)
    bent = bend(vectors.test, [] if head.adapter is None else [head.adapter])
    return References(
        figures(ranks_of(matrix.apply(vectors.test), vectors.passages, own)),
        figures(ranks_of(bent, vectors.passages, own)),
    )
