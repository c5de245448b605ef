"""Truncated SVD: best of its rank, exact or sketched, and scaled to be applied once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.errors import ConfigError
from lora.lowrank import LARGE, rounding_floor, truncated_svd


def matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def whole(found) -> np.ndarray:
    return found.left * found.values @ found.right


@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 24), st.integers(0, 9))
def test_the_truncation_is_the_best_of_its_rank(rows, columns, rank, seed) -> None:
    m = matrix(rows, columns, seed)
    found = truncated_svd(m, rank=rank)
    true = np.linalg.svd(m.astype(np.float64), compute_uv=False)
    k = min(rank, *m.shape)
    assert found.rank == k
    np.testing.assert_allclose(found.values, true[:k], atol=1e-6 * true[0])
    assert np.linalg.norm(m - whole(found)) <= np.sqrt(np.sum(true[k:] ** 2)) + 1e-5 * true[0]
    assert found.explained == pytest.approx(np.sum(true[:k] ** 2) / np.sum(true**2))


@given(st.floats(0.01, 1.0), st.integers(0, 20))
def test_the_energy_decides_the_smallest_rank_that_holds_it(energy: float, seed: int) -> None:
    m = matrix(20, 30, seed) * np.linspace(0.01, 2, 30, dtype=np.float32)
    found = truncated_svd(m, energy=energy)
    assert found.explained >= energy - 1e-9
    if found.rank > 1:
        assert truncated_svd(m, rank=found.rank - 1).explained < energy
    assert truncated_svd(m, energy=energy, rank=2).rank == min(2, found.rank)


@given(st.floats(0.01, 500), st.sampled_from([1.0, 0.3, -1.0, -2.0]), st.integers(1, 12))
def test_the_adapter_adds_the_part_once_whatever_alpha_is(alpha, strength, rank) -> None:
    m = matrix(12, 17)
    found = truncated_svd(m, rank=rank)
    adapter = found.adapter(alpha, strength=strength)
    a, b = adapter.factors
    added = adapter.scale * (a.astype(np.float64) @ b)
    np.testing.assert_allclose(added, strength * whole(found).T, atol=2e-5)
    assert (adapter.inputs, adapter.outputs, adapter.alpha) == (17, 12, alpha)


@pytest.mark.parametrize("shape", [(LARGE, LARGE + 40), (LARGE + 40, LARGE)])
def test_a_sketch_of_a_large_matrix_is_nearly_the_best(shape: tuple[int, int]) -> None:
    # Given singular values that fall slowly, the hard case
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.normal(size=(n, 60)))[0] for n in shape)
    values = np.linspace(2.0, 1.0, 60)
    m = ((left * values) @ right.T).astype(np.float32)
    # When a few directions are asked for
    found = truncated_svd(m, rank=6)
    # Then they hold what the best ones would, and are orthonormal
    assert found.energy >= 0.98 * np.sum(values[:6] ** 2)
    assert found.total == pytest.approx(np.sum(values**2), rel=1e-4)
    np.testing.assert_allclose(found.left.T @ found.left, np.eye(6), atol=1e-4)
    np.testing.assert_allclose(found.right @ found.right.T, np.eye(6), atol=1e-4)
    # And all of a low-rank matrix is found, by its energy
    assert truncated_svd(m, energy=0.9999).explained >= 0.9999


def test_nothing_holds_nothing() -> None:
    found = truncated_svd(np.zeros((4, 5), np.float32), energy=0.9)
    assert (found.rank, found.total, found.explained) == (0, 0.0, 1.0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rounding_stays_under_its_floor(dtype: str) -> None:
    # Given weights of uneven rows, and what storing them changes
    w = matrix(200, 300) * np.exp(matrix(200, 1, 1))
    rounded = (w * np.float32(1 / 3)).astype(dtype).astype(np.float32)
    exact = w.astype(np.float64) * float(np.float32(1 / 3))
    largest = np.linalg.svd(rounded - exact, compute_uv=False)[0]
    # Then the floor is above it, and by no more than an order of magnitude
    floor = rounding_floor(rounded, float(np.finfo(dtype).eps) / 2)
    assert largest < floor < 20 * largest


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"energy": 0.0}, {"energy": 1.1}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        truncated_svd(np.ones((2, 2), np.float32), **wrong)
