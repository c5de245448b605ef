"""Heads turn embeddings and keep their length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora import Adapter, bend
from lora.errors import ModuleShapeError
from tests.lora.cards import adapter

VECTORS = np.random.default_rng(3).normal(size=(9, 6)).astype(np.float32)


@given(st.integers(1, 3), st.floats(0.01, 100))
def test_the_formula_holds(count: int, length: float) -> None:
    heads = [adapter(6, 6, rank=i + 1, seed=i, alpha=4.0, size=0.5) for i in range(count)]
    rows = VECTORS * np.float32(length)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    turned = unit + sum(h.alpha / h.rank * (unit @ h.a @ h.b) for h in heads)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    expected = turned * np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(bend(rows, heads), expected, rtol=2e-4, atol=1e-5 * length)


def test_a_fresh_head_and_no_head_change_nothing() -> None:
    fresh = Adapter(adapter(6, 6).a, np.zeros((4, 6), np.float32), 4, 8.0)
    np.testing.assert_allclose(bend(VECTORS, [fresh]), VECTORS, rtol=1e-6)
    assert bend(VECTORS, []).tobytes() == VECTORS.tobytes()


def test_a_zero_vector_stays_zero() -> None:
    assert not bend(np.zeros((2, 6), np.float32), [adapter(6, 6)]).any()


def test_heads_that_cancel_a_vector_leave_it_alone() -> None:
    minus = Adapter(np.eye(6, dtype=np.float32), -np.eye(6, dtype=np.float32), 6, 6.0)
    np.testing.assert_array_equal(bend(VECTORS, [minus]), VECTORS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_heads_turn_nearly_as_wide_ones(dtype: str) -> None:
    wide = adapter(6, 6, size=0.5)
    np.testing.assert_allclose(
        bend(VECTORS, [wide.astype(dtype)]), bend(VECTORS, [wide]), atol=0.05
    )


def test_a_head_of_another_width_is_refused() -> None:
    with pytest.raises(ModuleShapeError, match="of 5 to 5 dimensions"):
        bend(VECTORS, [adapter(5, 5)])
