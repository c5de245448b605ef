"""The gate lets a real gain through, and neither chance nor a copy of what is served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.training.dataset import FEEDBACK, TrainingSet
from lora.training.errors import ConfigError, NothingToLearn
from lora.training.gate import Arena, chance, judge, masks, mrr, recall
from tests.lora.training.synthetic import world


def test_figures_are_the_textbook_ones() -> None:
    assert mrr([1, 2, 11, 4]) == pytest.approx((1 + 0.5 + 0 + 0.25) / 4)
    assert recall([1, 2, 1, 4]) == 0.5
    assert recall([1, 2, 3, 4], k=3) == 0.75


def test_a_clear_gain_is_accepted() -> None:
    generator = np.random.default_rng(0)
    before = generator.integers(1, 8, 200)
    verdict = judge(before, np.maximum(before - 1, 1), np.arange(200), attempts=3)
    assert verdict.accepted
    assert 0 < verdict.low <= verdict.gain <= verdict.high
    assert verdict.after - verdict.before == pytest.approx(verdict.gain)
    assert verdict.attempts == 3
    assert "attempt 3" in verdict.reason


def test_equal_and_worse_are_refused() -> None:
    ranks = np.random.default_rng(0).integers(1, 8, 200)
    assert not judge(ranks, ranks, np.arange(200)).accepted
    assert not judge(ranks, ranks + 1, np.arange(200)).accepted


def test_chance_passes_about_one_time_in_forty() -> None:
    """Of many pairs that differ by chance alone, no more than the level allows are accepted."""
    generator = np.random.default_rng(1)
    accepted = [
        judge(
            generator.integers(1, 12, 120),
            generator.integers(1, 12, 120),
            np.arange(120),
            resamples=500,
            seed=number,
        ).accepted
        for number in range(300)
    ]
    assert np.mean(accepted) < 0.06


def test_who_looks_often_is_not_lucky_more_often() -> None:
    """Of series of sixteen looks at growing data without any signal few end in a version."""
    generator = np.random.default_rng(2)

    def published() -> bool:
        for look in range(1, 17):
            # Every look trains anew: what it ranks has nothing to do with the last one's.
            ranks = generator.integers(1, 61, (2, 16 * look))
            if judge(*ranks, np.arange(16 * look), attempts=look, resamples=400).accepted:
                return True
        return False

    # Some 7 % by the level, 45 % without it.
    assert np.mean([published() for _ in range(60)]) <= 0.15


def test_a_gain_of_few_groups_needs_to_be_rarer_with_every_attempt() -> None:
    before, after = np.full(12, 3), np.r_[np.full(7, 1), np.full(5, 3)]
    first, tenth = (judge(before, after, np.arange(12), attempts=n) for n in (1, 10))
    assert first.accepted
    assert first.chance == pytest.approx(2**-7, abs=0.002)
    assert tenth.low == first.low > 0
    assert not tenth.accepted
    assert "by luck alone" in tenth.reason


def test_the_chance_of_many_groups_is_that_of_their_flips() -> None:
    generator = np.random.default_rng(3)
    gains = generator.normal(0.1, 1.0, 199)
    exact = chance(gains, np.arange(199), flips=50_000)
    tail = chance(np.r_[gains, 1e-9, -1e-9], np.arange(201))
    assert tail == pytest.approx(exact, rel=0.15)
    assert chance(-np.abs(gains), np.arange(199)) == 1.0
    assert chance(np.zeros(9), np.arange(9)) == 1.0


def test_groups_are_drawn_together() -> None:
    """One question asked a hundred times is one piece of evidence, not a hundred."""
    before = np.full(200, 2)
    after = np.full(200, 2)
    after[:100] = 1
    alone = judge(before, after, np.arange(200))
    together = judge(before, after, np.r_[np.zeros(100), np.arange(1, 101)].astype(int))
    assert alone.accepted
    assert together.groups == 101
    assert together.low < alone.low


def test_a_handful_of_groups_is_never_enough() -> None:
    verdict = judge([2, 2, 2], [1, 1, 1], [1, 2, 3])
    assert verdict.low > 0
    assert not verdict.accepted
    assert "fewer than 8" in verdict.reason


def test_the_same_seed_gives_the_same_interval() -> None:
    ranks = np.random.default_rng(0).integers(1, 8, (2, 90))
    one, two = (judge(*ranks, np.arange(90), seed=4) for _ in range(2))
    assert one == two


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="do not pair up"):
        judge([1, 2], [1], [1, 2])
    with pytest.raises(ConfigError, match="count from 1"):
        judge([0], [1], [1])
    with pytest.raises(NothingToLearn):
        judge([], [], [])


def arena_world() -> TrainingSet:
    """One query with a positive, a labelled negative, and passages around them on a circle."""
    angles = np.radians([60, 62, 20, 59, 0])
    return TrainingSet.build(
        queries=["asked", "asked!"],
        query_vectors=[[1, 0], [1, 0]],
        groups=[7, 7],
        folds=[2, 2],
        passages=["positive", "likely relevant", "ahead", "negative", "twin's"],
        passage_vectors=np.stack([np.cos(angles), np.sin(angles)], axis=1),
        labels=[(0, 0, 1.0, FEEDBACK), (0, 3, 0.0, FEEDBACK), (1, 4, 1.0, FEEDBACK)],
    )


def test_the_mask_hides_what_is_likely_relevant() -> None:
    """Within 5 % of a positive, or relevant to a near-duplicate; never what a person judged."""
    data = arena_world()
    arena = Arena(data, [0])
    relevant, hidden = arena.masks(np.array([0]))
    assert relevant[0].tolist() == [True, False, False, False, False]
    # 62° is more than 5 % from 60° in cosine; 59° is near but labelled irrelevant.
    assert hidden[0].tolist() == [False, False, False, False, True]
    assert arena.ranks([[1.0, 0.0]]).tolist() == [3]


def test_unlabelled_neighbours_of_a_positive_are_no_candidates() -> None:
    data = arena_world()
    similarities = np.array([[0.5, 0.52, 0.9, 0.51, 0.1]], np.float32)
    _, hidden = masks(data, np.array([0]), similarities)
    assert hidden[0].tolist() == [False, True, False, False, True]


def test_the_arena_ranks_as_a_plain_sort_would() -> None:
    data = world(queries=60)
    arena = Arena(data)
    vectors = data.query_vectors[arena.rows]
    relevant, hidden = arena.masks(np.arange(60))
    scores = np.where(hidden, -9.0, vectors @ arena.passages.T)
    order = np.argsort(-scores, axis=1)
    plain = [1 + int(np.flatnonzero(relevant[row][order[row]])[0]) for row in range(60)]
    assert arena.ranks(vectors).tolist() == plain
    assert arena.ranks(vectors * 3.0).tolist() == plain


def test_ties_count_against_the_query() -> None:
    """A model that maps everything to one point gains nothing."""
    data = world(queries=20)
    assert Arena(data).ranks(np.zeros((20, data.dim))).min() > 5


def test_vectors_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match="should have shape"):
        Arena(world(queries=20)).ranks(np.zeros((3, 24)))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 14), st.floats(0, 1, width=32))),
    st.integers(0, 3),
    st.integers(0, 5),
    st.integers(0, 2**16),
)
def test_whatever_a_teacher_labels_or_writes_changes_no_rank(
    said: list[tuple[int, int, float]], written: int, asked: int, seed: int
) -> None:
    """Labels on people's pairs and others, passages anywhere among people's, queries in groups."""
    data, generator = world(queries=40), np.random.default_rng(seed)
    vectors = generator.normal(size=(40, data.dim))
    count = len(data.passages) + written
    order = generator.permutation(count)  # where each passage lies afterwards
    sources = np.array([FEEDBACK] * len(data.passages) + ["openai"] * written)
    passages = np.concatenate([data.passage_vectors, generator.normal(size=(written, data.dim))])
    inverse = np.argsort(order)
    near = generator.integers(0, 40, asked)
    real = zip(data.label_query, data.label_passage, data.label_value, strict=True)
    taught = TrainingSet.build(
        queries=[*data.queries, *(f"taught {number}" for number in range(asked))],
        query_vectors=np.concatenate([data.query_vectors, data.query_vectors[near]]),
        groups=[*data.groups, *data.groups[near]],
        folds=[*data.folds, *data.folds[near]],
        passages=[f"passage {number}" for number in range(count)],
        passage_vectors=passages[inverse],
        passage_sources=sources[inverse].tolist(),
        labels=[
            *((int(q), int(order[p]), float(value), FEEDBACK) for q, p, value in real),
            *((q, int(order[p % count]), value, "openai") for q, p, value in said),
            *((40 + number, int(order[0]), 1.0, "openai") for number in range(asked)),
        ],
    )

    before, after = Arena(data), Arena(taught)

    assert after.rows.tolist() == before.rows.tolist()
    assert after.ranks(vectors).tolist() == before.ranks(vectors).tolist()


def test_a_dataset_that_somebody_vouches_for_is_judged_by_all_of_it() -> None:
    data = arena_world()
    anchors = replace(data, label_source=("anchor",) * 3, passage_sources=("anchor",) * 5)

    arena = Arena(anchors, [0], trusted=True)

    assert arena.ranks([[1.0, 0.0]]).tolist() == Arena(data, [0]).ranks([[1.0, 0.0]]).tolist()
