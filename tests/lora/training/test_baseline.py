"""The full-rank matrix that published figures stand beside is trained with care."""

from __future__ import annotations

import numpy as np

from lora.training.baseline import fit_full_rank
from lora.training.gate import Arena, mrr
from lora.training.head import HeadConfig
from tests.lora.training.synthetic import world

QUICK = tuple(
    HeadConfig(learning_rate=3e-3, weight_decay=decay, dropout=0.0, self_weight=0.0)
    for decay in (0.0, 10.0)
)


def test_it_learns_the_turn_of_the_world() -> None:
    data, later = world(queries=200), world(queries=200, seed=1)
    fitted = fit_full_rank(data, grid=QUICK, checkpoints=(20, 60))
    assert fitted.matrix.shape == (24, 24)
    assert np.linalg.matrix_rank(fitted.matrix) == 24
    arena = Arena(later)
    after = mrr(arena.ranks(fitted.apply(later.query_vectors)))
    assert after > mrr(arena.ranks(later.query_vectors)) + 0.1
    assert abs(after - fitted.score) < 0.1


def test_its_settings_come_from_the_folds() -> None:
    """Between a setting that learns and one that stands still the first is chosen."""
    still = HeadConfig(learning_rate=1e-7, dropout=0.0, self_weight=0.0)
    fitted = fit_full_rank(world(queries=100), grid=(still, QUICK[0]), checkpoints=(20, 40))
    assert fitted.config == QUICK[0]
    assert fitted.step in (20, 40)
