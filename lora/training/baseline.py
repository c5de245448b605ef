"""The baseline beside every published figure: a full-rank matrix on the query embedding.

What LlamaIndex's linear adapter and weightgain train: q' = normalize(q (I + W)), W (dim, dim) free,
a softmax over all passages, AdamW; here with its best settings, chosen by cross-validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora.training.dataset import TrainingSet
from lora.training.gate import CUTOFF, Arena, unit
from lora.training.head import HeadConfig, HeadProblem, fit_head

__all__ = ["FullRank", "fit_full_rank"]

Floats = npt.NDArray[np.float32]

GRID = tuple(
    HeadConfig(
        temperature=temperature,
        learning_rate=rate,
        weight_decay=decay,
        dropout=0.0,
        self_weight=0.0,
    )
    for temperature in (0.05, 0.03)
    for rate, decay in ((1e-3, 0.0), (3e-3, 3.0), (3e-3, 10.0))
)
CHECKPOINTS = (10, 20, 40, 60, 100)


@dataclass(frozen=True, eq=False)
class FullRank:
    """A fitted matrix and the settings that won."""

    matrix: Floats
    """(dim, dim): W."""
    config: HeadConfig
    step: int
    score: float
    """MRR@10 in cross-validation, 0 to 1."""

    def apply(self, vectors: npt.ArrayLike) -> Floats:
        """Query vectors (k, dim) turned by the matrix, as unit vectors."""
        rows = unit(np.asarray(vectors))
        return unit(rows + rows @ self.matrix)


def fit_full_rank(
    data: TrainingSet,
    *,
    grid: Sequence[HeadConfig] = GRID,
    checkpoints: Sequence[int] = CHECKPOINTS,
    max_passages: int = 4096,
    seed: int = 0,
) -> FullRank:
    """Choose settings and number of steps on the five folds, then fit on everything."""
    arena = Arena(data)
    problem = HeadProblem(data, max_passages=max_passages, max_rank=data.dim, seed=seed)
    # The whole space as its own basis: nothing is left out of the matrix.
    problem.basis = np.eye(data.dim, dtype=np.float32)
    steps = sorted(checkpoints)
    scores = np.zeros((len(grid), len(steps)))
    queries = unit(data.query_vectors[arena.rows])
    for fold in sorted({int(fold) for fold in arena.folds}):
        rows = np.flatnonzero(arena.folds == fold)
        members = problem.without([fold])
        if not len(members):
            continue
        masks = arena.masks(rows)
        for line, config in enumerate(grid):
            fits = fit_head(problem, config, members=members, checkpoints=steps, seed=seed)
            for column, step in enumerate(steps):
                turned = fits[step].apply(queries[rows]) @ arena.passages.T
                ranks = arena.rank_scores(turned, *masks)
                scores[line, column] += np.where(ranks <= CUTOFF, 1.0 / ranks, 0.0).sum()
    setting, stop = np.unravel_index(int(scores.argmax()), scores.shape)
    config, step = grid[int(setting)], steps[int(stop)]
    final = fit_head(problem, config, checkpoints=(step,), seed=seed)[step]
    best = float(scores.max()) / max(len(arena.rows), 1)
    return FullRank(final.a @ final.b, config, step, best)
