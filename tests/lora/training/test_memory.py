"""The estimate of memory is near what is taken, and the bounds keep to the budget."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.training.errors import ConfigError
from lora.training.head import MAX_PASSAGES, MAX_QUERIES, HeadConfig, HeadProblem, fit_head
from lora.training.memory import ACTIVATIONS, BODY_BYTES, HEAD_BYTES, Bounds, bounds, estimate
from tests.lora.training.synthetic import DIM, world


@pytest.mark.parametrize(("queries", "passages"), [(3000, 1000), (600, 3000), (4000, 60)])
def test_the_estimate_is_near_what_a_fit_takes(queries: int, passages: int) -> None:
    data = world(queries=queries, passages=passages)
    tracemalloc.start()
    try:
        problem = HeadProblem(data, max_passages=passages)
        fit_head(problem, HeadConfig(), checkpoints=(2,))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    told = estimate(queries, passages, queries, passages, DIM)
    assert 0.7 * peak < told < 2.5 * peak


@given(
    st.integers(64, 4000),
    st.integers(1, 60_000),
    st.integers(1, 50_000),
    st.booleans(),
)
def test_bounds_keep_to_the_budget_or_are_the_least_that_makes_sense(
    megabytes: int, rows: int, candidates: int, body: bool
) -> None:
    budget = megabytes << 20
    found = bounds(budget, rows, candidates, 384, body=body)
    queries, passages = min(rows, found.queries), min(candidates, found.passages)
    taken = estimate(queries, passages, rows, candidates, 384)
    taken += (BODY_BYTES + found.activations) if body else HEAD_BYTES
    least = queries <= 256 and passages <= 64
    assert taken <= budget or least
    assert 1 <= found.passages <= MAX_PASSAGES
    assert 1 <= found.queries <= MAX_QUERIES
    assert 0 <= found.activations <= ACTIVATIONS


def test_more_memory_never_holds_less() -> None:
    held = [bounds(b << 20, 50_000, 8_000, 384, body=False) for b in range(300, 4000, 100)]
    sizes = [each.queries * each.passages for each in held]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert bounds(None, 50_000, 8_000, 384, body=True) == Bounds()


def test_a_problem_keeps_to_its_bounds() -> None:
    data = world(queries=300, passages=200)
    problem = HeadProblem(data, max_queries=40, passage_cap=30)
    assert len(problem.rows) <= 40
    assert len(problem.passages) == 30
    assert np.all(problem.targets.sum(axis=1) == pytest.approx(1.0))
    with pytest.raises(ConfigError):
        HeadConfig(taught_weight=-1.0)
