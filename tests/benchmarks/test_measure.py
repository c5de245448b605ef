"""The figures: ranks, reciprocal ranks, and intervals that tell luck from gain."""

import numpy as np
import pytest

from benchmarks.kit.measure import best_wrong, figures, paired_gain, percentile, ranks_of

PASSAGES = np.eye(4, dtype=np.float32)
QUERIES = np.array([[1, 0.5, 0, 0], [0, 0, 2, 3], [1, 1, 0, 0]], np.float32)


def test_ranks_count_from_one_and_a_tie_counts_against_the_query() -> None:
    assert ranks_of(QUERIES, PASSAGES, [0, 2, 1]).tolist() == [1, 2, 2]


def test_length_of_vectors_changes_no_rank() -> None:
    stretched = PASSAGES * np.array([[1], [9], [5], [0.1]], np.float32)
    assert ranks_of(QUERIES, stretched, [0, 2, 1]).tolist() == [1, 2, 2]


def test_figures_are_recall_at_1_and_mrr_at_10() -> None:
    found = figures([1, 2, 4, 11])
    assert found.recall == 0.25
    assert found.mrr == pytest.approx((1 + 0.5 + 0.25) / 4)


def test_wrong_passages_are_those_ranked_first_without_the_right_one() -> None:
    assert best_wrong(QUERIES[:2], PASSAGES, [0, 2], first=2) == [[1], [3]]


def test_an_interval_of_noise_includes_zero_and_one_of_gain_does_not() -> None:
    generator = np.random.default_rng(1)
    before = generator.random(500)
    noise = paired_gain(before, before + generator.normal(0, 0.1, 500))
    gain = paired_gain(before, before + generator.normal(0.05, 0.1, 500))

    assert noise.low < 0 < noise.high
    assert 0 < gain.low < gain.mean < gain.high


def test_an_interval_is_the_same_at_every_run() -> None:
    after = np.linspace(0, 1, 64)
    assert paired_gain(np.zeros(64), after) == paired_gain(np.zeros(64), after)


def test_a_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2.0
