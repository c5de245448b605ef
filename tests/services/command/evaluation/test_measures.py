"""The measures: values by hand, a second implementation, what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.command.evaluation.measures import (
    FEWEST,
    Difference,
    compare,
    intervals,
    ndcg,
    recall,
    reciprocal_rank,
)

LOG3 = math.log2(3)


@pytest.mark.parametrize(
    ("relevance", "judged", "k", "expected"),
    [
        pytest.param([1, 0, 0], [1], 10, 1.0, id="first"),
        pytest.param([0, 1, 0], [1], 10, 1 / LOG3, id="second"),
        pytest.param([0, 0, 1], [1], 2, 0.0, id="beyond the cutoff"),
        # Graded: the gain is the relevance itself. By 2^relevance - 1 it would be 0.7098.
        pytest.param([1, 2], [1, 2], 10, (1 + 2 / LOG3) / (2 + 1 / LOG3), id="graded"),
        # DCG = 3 + 2/log2(3) + 3/2 + 0 + 1/log2(6) + 2/log2(7); the ideal is 3 3 2 2 1.
        pytest.param(
            [3, 2, 3, 0, 1, 2],
            [3, 2, 3, 0, 1, 2],
            6,
            (3 + 2 / LOG3 + 1.5 + 1 / math.log2(6) + 2 / math.log2(7))
            / (3 + 3 / LOG3 + 1 + 2 / math.log2(5) + 1 / math.log2(6)),
            id="six graded documents",
        ),
        pytest.param([1, 0], [1, 1], 1, 1.0, id="the ideal is cut, too"),
        pytest.param([1, 0], [1, 1], 2, 1 / (1 + 1 / LOG3), id="one of two found"),
        pytest.param([0, 0], [0, -1], 2, 0.0, id="nothing is relevant"),
        pytest.param([1], [1, -2], 2, 1.0, id="a negative judgement is none to gain"),
        pytest.param([-2, 1], [1, -2], 2, 1 / LOG3, id="nor to lose"),
    ],
)
def test_ndcg_by_hand(relevance: list[int], judged: list[int], k: int, expected: float) -> None:
    assert ndcg([relevance], [judged], k)[0] == pytest.approx(expected, abs=1e-12)


def test_reciprocal_rank_and_recall_by_hand() -> None:
    relevance = [[0, 0, 2, 1], [1, 0, 0, 1], [0, 0, 0, 0]]
    assert reciprocal_rank(relevance, 10).tolist() == [1 / 3, 1.0, 0.0]
    assert reciprocal_rank(relevance, 2).tolist() == [0.0, 1.0, 0.0]
    assert recall(relevance, [4, 2, 1], 10).tolist() == [0.5, 1.0, 0.0]
    assert recall(relevance, [4, 2, 1], 3).tolist() == [0.25, 0.5, 0.0]


def plain(relevance: list[int], judged: list[int], k: int) -> tuple[float, float, float]:
    """nDCG, reciprocal rank and recall of one query, as one writes them down."""
    dcg = ideal = first = found = 0.0
    for rank, value in enumerate(relevance[:k], start=1):
        if value > 0:
            dcg += value / math.log(rank + 1, 2)
            found += 1
            first = first or 1 / rank
    for rank, value in enumerate(sorted(judged, reverse=True)[:k], start=1):
        ideal += max(value, 0) / math.log(rank + 1, 2)
    count = sum(value > 0 for value in judged)
    return (dcg / ideal if ideal else 0.0, first, found / count if count else 0.0)


@st.composite
def lists(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """What was ranked, all that was judged, and a cutoff."""
    ranked = draw(st.lists(st.integers(0, 4), min_size=1, max_size=20))
    missed = draw(st.lists(st.integers(-1, 4), max_size=8))
    order = draw(st.permutations(ranked + missed))
    return ranked, list(order), draw(st.integers(1, 25))


@given(lists())
def test_they_agree_with_a_plain_implementation(case: tuple[list[int], list[int], int]) -> None:
    relevance, judged, k = case
    count = sum(value > 0 for value in judged)
    ours = (
        ndcg([relevance], [judged], k)[0],
        reciprocal_rank([relevance], k)[0],
        recall([relevance], [count], k)[0],
    )
    assert ours == pytest.approx(plain(relevance, judged, k), abs=1e-12)


@given(lists(), st.integers(1, 5))
def test_ndcg_is_a_share_that_scale_and_the_tail_leave_as_it_is(
    case: tuple[list[int], list[int], int], factor: int
) -> None:
    relevance, judged, k = case
    value = ndcg([relevance], [judged], k)[0]
    assert 0 <= value <= 1 + 1e-12
    scaled = ndcg([[factor * it for it in relevance]], [[factor * it for it in judged]], k)[0]
    assert scaled == pytest.approx(value, abs=1e-12)
    assert ndcg([[*relevance[:k], 4, 4]], [judged], len(relevance[:k]))[0] == pytest.approx(
        ndcg([relevance[:k]], [judged], len(relevance[:k]))[0], abs=1e-12
    )


@given(lists(), st.data())
def test_a_better_document_moved_up_never_lowers_a_measure(
    case: tuple[list[int], list[int], int], data: st.DataObject
) -> None:
    relevance, judged, k = case
    place = data.draw(st.integers(0, len(relevance) - 1))
    up = data.draw(st.integers(0, place))
    moved = list(relevance)
    if moved[place] > moved[up]:
        moved[place], moved[up] = moved[up], moved[place]
    count = sum(value > 0 for value in judged)
    assert ndcg([moved], [judged], k)[0] >= ndcg([relevance], [judged], k)[0] - 1e-12
    assert reciprocal_rank([moved], k)[0] >= reciprocal_rank([relevance], k)[0]
    assert recall([moved], [count], k)[0] >= recall([relevance], [count], k)[0]


def test_an_interval_is_as_wide_as_the_normal_one_where_that_holds() -> None:
    values = np.random.default_rng(3).normal(0.2, 1.0, (900, 1))
    low, high = intervals(values)[0]
    error = values.std() / 30
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_intervals_are_the_same_each_time_and_do_not_depend_on_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(1).random((40, 2))
    once = intervals(values)
    assert np.array_equal(once, intervals(values))
    monkeypatch.setattr("services.command.evaluation.measures._BLOCK", 40 * 7)
    assert np.array_equal(once, intervals(values))
    assert not np.array_equal(once, intervals(values, seed=1))


@settings(max_examples=25)
@given(st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=30), st.floats(0.1, 3))
def test_intervals_move_and_stretch_with_the_values(values: list[float], factor: float) -> None:
    rows = np.array(values)[:, None]
    low, high = intervals(rows, resamples=200)[0]
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert intervals(rows * factor + 5, resamples=200)[0] == pytest.approx(
        [low * factor + 5, high * factor + 5], abs=1e-9
    )
    assert intervals(-rows, resamples=200)[0] == pytest.approx([-high, -low], abs=1e-9)


def test_a_difference_is_proven_only_off_zero_and_by_more_than_a_handful() -> None:
    before = np.zeros((200, 3))
    after = before.copy()
    after[:40, 0] = 1.0  # many gain
    after[: FEWEST - 1, 1] = 1.0  # few do, though the interval sees no doubt
    after[:20, 2], after[20:40, 2] = 1.0, -1.0  # as many lose
    many, few, both = compare(before, after)
    assert many.proven
    assert (many.mean, many.better, many.worse) == (0.2, 40, 0)
    assert few.low > 0
    assert not few.proven
    assert both.low < 0 < both.high
    assert not both.proven
    assert compare(after, before)[0].proven, "worse is proven in the same way"


def test_no_difference_is_no_proof() -> None:
    same = np.random.default_rng(0).random((50, 1))
    assert compare(same, same) == [Difference(0.0, 0.0, 0.0, 0, 0)]
    assert not compare(same, same)[0].proven
