"""Small worlds with a known answer, for the tests of learning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lora.training.dataset import FEEDBACK, TrainingSet
from lora.training.folds import fold_of
from lora.training.gate import unit

DIM = 24


def world(
    queries: int = 120,
    passages: int = 12,
    *,
    dim: int = DIM,
    noise: float = 0.8,
    turned: bool = True,
    shuffled: bool = False,
    seed: int = 0,
) -> TrainingSet:
    """Queries that lie near their passage, seen through a rotation that a head can undo.

    `turned=False`: the base model is right already. `shuffled`: the labels mean nothing.
    """
    generator = np.random.default_rng(seed)
    # The same passages and rotation for every seed: worlds of two seeds are one domain.
    fixed = np.random.default_rng(99)
    points = unit(fixed.normal(size=(passages, dim)))
    left, _, right = np.linalg.svd(np.eye(dim) + 0.8 * fixed.normal(size=(dim, dim)))
    turn = left @ right  # the rotation nearest to the matrix
    wanted = generator.integers(0, passages, queries)
    near = points[wanted] + noise * unit(generator.normal(size=(queries, dim)))
    vectors = unit(near @ turn if turned else near)
    if shuffled:
        wanted = generator.permutation(wanted)
    order = np.argsort(-(vectors @ points.T), axis=1)[:, :5]
    labels = [(row, int(passage), 1.0, FEEDBACK) for row, passage in enumerate(wanted)]
    labels += [
        (row, int(passage), 0.0, FEEDBACK)
        for row in range(queries)
        for passage in order[row]
        if passage != wanted[row]
    ]
    groups = np.array([seed * 100_000 + 13 * row for row in range(queries)])
    return TrainingSet.build(
        queries=[f"query {seed} {row}" for row in range(queries)],
        query_vectors=vectors,
        groups=groups,
        folds=[fold_of(group) for group in groups],
        passages=[f"passage {number}" for number in range(passages)],
        passage_vectors=points,
        labels=labels,
    )


def away(count: int = 800, *, dim: int = DIM, seed: int = 5) -> npt.NDArray[np.float32]:
    """Questions of everyone else: one direction shared, and any other."""
    generator = np.random.default_rng(seed)
    shared = unit(np.random.default_rng(7).normal(size=(1, dim)))
    return unit(shared * 1.5 + unit(generator.normal(size=(count, dim))))
