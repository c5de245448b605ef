"""A head starts as the identity, follows its true gradient, and lands in a card unchanged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lora.head import bend
from lora.training.dataset import TrainingSet
from lora.training.errors import ConfigError, NothingToLearn
from lora.training.gate import Arena, mrr, unit
from lora.training.head import (
    Batch,
    Fit,
    HeadConfig,
    HeadProblem,
    fit_head,
    head_adapter,
    loss_and_gradient,
)
from tests.lora.training.synthetic import world


def a_batch(generator: np.random.Generator) -> tuple[Batch, np.ndarray]:
    rows, dim, passages = 6, 8, 5
    points = unit(generator.normal(size=(passages, dim)))
    basis = np.linalg.svd(points, full_matrices=False)[2].astype(np.float32)
    inputs = unit(generator.normal(size=(rows, dim)))
    targets = unit(generator.random((rows, passages))) ** 2
    hidden = np.zeros((rows, passages), bool)
    hidden[0, 1] = True
    targets[0, 1] = 0
    batch = Batch(
        inputs=inputs,
        along=inputs @ basis.T,
        scores=inputs @ points.T,
        targets=(targets / targets.sum(axis=1, keepdims=True)).astype(np.float32),
        hidden=hidden,
        weights=np.full(rows, 1 / rows, np.float32),
    )
    return batch, points @ basis.T


def test_the_gradient_is_the_slope() -> None:
    """Against central differences, through the normalisation and the mask."""
    generator = np.random.default_rng(0)
    batch, points = a_batch(generator)
    a = 0.3 * generator.normal(size=(8, 5)).astype(np.float32)
    _, gradient = loss_and_gradient(a, batch, points, 0.2)
    for row, column in [(0, 0), (3, 2), (7, 4)]:
        step = np.zeros_like(a)
        step[row, column] = 1e-2
        up = loss_and_gradient(a + step, batch, points, 0.2)[0]
        down = loss_and_gradient(a - step, batch, points, 0.2)[0]
        assert gradient[row, column] == pytest.approx((up - down) / 2e-2, rel=0.02, abs=2e-4)


def test_the_projected_loss_is_the_plain_one() -> None:
    """Working in the passages' span changes the cost of a step, not what it computes."""
    problem = HeadProblem(world(queries=30))
    fit = fit_head(problem, HeadConfig(), checkpoints=(10,))[10]
    plain = fit.apply(problem.vectors) @ problem.passages.T
    added = problem.vectors @ fit.a
    along = problem.vectors @ problem.basis.T
    norms = np.sqrt(1 + ((2 * along + added) * added).sum(axis=1, keepdims=True))
    projected = (problem.scores + added @ (problem.passages @ problem.basis.T).T) / norms
    np.testing.assert_allclose(projected, plain, atol=1e-5)


def test_nothing_learnt_is_no_change() -> None:
    problem = HeadProblem(world(queries=30))
    fit = Fit(np.zeros((24, problem.rank), np.float32), problem.basis, 0, 0.0)
    np.testing.assert_allclose(fit.apply(problem.vectors), problem.vectors, atol=1e-6)


def test_a_card_bends_as_its_fit_did() -> None:
    """The adapter of a card gives the fit's vectors, at the scale that was chosen."""
    problem = HeadProblem(world(queries=60))
    fit = fit_head(problem, HeadConfig())[45]
    head = head_adapter(fit, 0.7)
    assert head.scale == 1.0
    np.testing.assert_allclose(
        bend(problem.vectors, [head]), fit.apply(problem.vectors, 0.7), atol=1e-5
    )


def test_a_smaller_rank_is_the_best_approximation() -> None:
    problem = HeadProblem(world(queries=60))
    fit = fit_head(problem, HeadConfig())[45]
    whole = fit.a @ fit.b
    errors = []
    for rank in (2, 6, problem.rank):
        head = head_adapter(fit, 1.0, max_rank=rank)
        assert head.rank == rank
        a, b = head.factors
        errors.append(np.linalg.norm(whole - a @ b))
    tail = np.linalg.svd(whole, compute_uv=False)[2:]
    assert errors[0] == pytest.approx(np.sqrt((tail**2).sum()), rel=1e-3)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4


def test_training_learns_what_is_there() -> None:
    """On queries of the same world that it never saw."""
    train, test = world(queries=150), world(queries=200, seed=1)
    fit = fit_head(HeadProblem(train), HeadConfig())[45]
    arena = Arena(test)
    before, after = (arena.ranks(v) for v in (test.query_vectors, fit.apply(test.query_vectors)))
    assert mrr(after) > mrr(before) + 0.1


def test_the_same_seed_gives_the_same_bits() -> None:
    data = world(queries=50)
    one, two, other = (
        fit_head(HeadProblem(data), HeadConfig(), seed=seed)[45].a for seed in (3, 3, 4)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_only_members_are_learnt_from() -> None:
    """A query outside the members has no influence, whatever its labels say."""
    data = world(queries=50)
    values = data.label_passage.copy()
    out = data.label_query >= 40
    values[out] = (values[out] + 1) % len(data.passages)
    changed = replace(data, label_passage=values)
    members = np.arange(40)
    one, two = (
        fit_head(HeadProblem(each), HeadConfig(), members=members)[45].a for each in (data, changed)
    )
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_weights_and_soft_values_count() -> None:
    """A query of weight 0 is left out, and values share the target between passages."""
    data = world(queries=10)
    weights = np.ones(10)
    weights[3] = 0
    assert 3 not in HeadProblem(replace(data, weights=weights)).rows
    graded = TrainingSet.build(
        queries=["a"],
        query_vectors=np.eye(3)[:1],
        groups=[1],
        folds=[1],
        passages=["p", "q", "r"],
        passage_vectors=np.eye(3),
        labels=[(0, 0, 0.75, "teacher"), (0, 1, 0.25, "teacher"), (0, 2, 0.0, "teacher")],
    )
    assert HeadProblem(graded).targets.tolist() == [[0.75, 0.25, 0.0]]


def test_many_passages_are_sampled_relevant_ones_first() -> None:
    """The softmax stays bounded, and no query loses its relevant passage."""
    data = world(queries=80, passages=400)
    problem = HeadProblem(data, max_passages=120, max_rank=16)
    assert len(problem.passages) < 240
    assert problem.rank == 16
    assert len(problem.rows) == 80
    assert np.all(problem.targets.sum(axis=1) == 1)
    fits = fit_head(problem, HeadConfig(batch=32), checkpoints=(5, 10))
    assert sorted(fits) == [5, 10]


def test_nothing_to_learn_is_said() -> None:
    data = world(queries=10)
    with pytest.raises(NothingToLearn, match="relevant"):
        HeadProblem(replace(data, label_value=np.zeros(len(data.label_value))))
    with pytest.raises(NothingToLearn, match="left"):
        fit_head(HeadProblem(data), HeadConfig(), members=[])


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": 0},
        {"dropout": 1.0},
        {"weight_decay": -1},
        {"steps": 0},
        {"learning_rate": 0.5},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        HeadConfig(**bad)  # type: ignore[arg-type]
