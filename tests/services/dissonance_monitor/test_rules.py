"""The rule at its boundaries, and the scores it rests on."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import LearningEvent
from services.dissonance_monitor import rules
from services.dissonance_monitor.rules import Scores
from services.runtime.settings import MonitorSettings

SETTINGS = MonitorSettings()
COSINES = st.lists(st.floats(-1, 1), min_size=2, max_size=30)
SHARE = st.floats(0, 1)
DELTA = st.floats(-1, 1)


def scores(
    rouge: float = 0.5,
    delta: float = 0.0,
    margin: float | None = 0.2,
    right: bool = True,
    novelty: float | None = None,
) -> Scores:
    return Scores(rouge, delta, margin, right, novelty)


@given(COSINES, st.floats(0.01, 1))
def test_entropy_is_a_share_and_ignores_the_order(similarities: list[float], tau: float) -> None:
    found = rules.entropy(similarities, tau)

    assert 0 <= found <= 1
    assert rules.entropy(similarities[::-1], tau) == pytest.approx(found, abs=1e-9)


@given(st.integers(2, 50), st.floats(-1, 1))
def test_who_cannot_tell_passages_apart_is_as_unsure_as_can_be(count: int, level: float) -> None:
    assert rules.entropy([level] * count, 0.05) == pytest.approx(1.0)


def test_entropy_is_the_textbook_one_and_falls_to_nothing_when_sure() -> None:
    p = 1 / (1 + math.exp(-0.1 / 0.05))
    expected = -(p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2)

    assert rules.entropy([0.5, 0.4], 0.05) == pytest.approx(expected)
    assert rules.entropy([1.0, -1.0], 0.001) == 0.0
    assert rules.entropy([0.3], 0.05) == 0.0
    assert rules.entropy([], 0.05) == 0.0


@given(COSINES)
def test_a_query_served_by_the_base_model_has_no_change_of_entropy(found: list[float]) -> None:
    assert rules.entropy_delta(found, found, 0.05) == 0.0


@given(COSINES, COSINES)
def test_margin_is_negative_exactly_when_an_irrelevant_passage_is_nearer(
    relevant: list[float], irrelevant: list[float]
) -> None:
    found = rules.margin(relevant, irrelevant)

    assert found is not None
    assert (found < 0) == (max(irrelevant) > max(relevant))


def test_there_is_no_margin_without_both_sides() -> None:
    assert rules.margin([0.5], []) is None
    assert rules.margin([], [0.5]) is None


@given(COSINES, st.data())
def test_a_tie_for_the_first_place_counts_against_the_answer(
    similarities: list[float], data: st.DataObject
) -> None:
    size = len(similarities)
    good = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))

    first, right = rules.ranked_first(similarities, good)

    best = max(similarities)
    assert similarities[first] == best
    leaders = [flag for score, flag in zip(similarities, good, strict=True) if score == best]
    assert right == all(leaders)
    assert good[first] == right


def test_nothing_can_be_ranked_first_of_nothing() -> None:
    with pytest.raises(ValueError, match="no passage"):
        rules.ranked_first([], [])


@given(COSINES, st.lists(st.floats(-1, 1), min_size=1, max_size=4))
def test_what_lies_as_near_as_a_positive_is_left_out(
    candidates: list[float], positives: list[float]
) -> None:
    out = rules.likely_relevant(candidates, positives)

    low = min(s - 0.05 * abs(s) for s in positives)
    high = max(s + 0.05 * abs(s) for s in positives)
    for score, left in zip(candidates, out.tolist(), strict=True):
        assert left == (low <= score <= high)
    assert rules.likely_relevant(positives, positives).all()
    assert not rules.likely_relevant(candidates, []).any()


@given(SHARE, DELTA)
def test_breakthrough_is_the_one_of_the_learning_event(rouge: float, delta: float) -> None:
    expected = rouge > 0.7 and delta < -0.1

    assert rules.is_breakthrough(rouge, delta, SETTINGS) == expected
    assert LearningEvent.check_breakthrough(rouge, delta) == expected


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (scores(rouge=0.7, delta=-0.1), None),
        (scores(rouge=np.nextafter(0.7, 1), delta=-0.1), None),
        (scores(rouge=0.7, delta=np.nextafter(-0.1, -1)), None),
        (scores(rouge=np.nextafter(0.7, 1), delta=np.nextafter(-0.1, -1)), "breakthrough"),
        (scores(delta=0.15), None),
        (scores(delta=-0.15), None),
        (scores(delta=np.nextafter(0.15, 1)), "entropy"),
        (scores(delta=np.nextafter(-0.15, -1)), "entropy"),
        (scores(margin=0.0), None),
        (scores(margin=np.nextafter(0.0, -1)), "contradiction"),
        (scores(margin=None), None),
        (scores(right=False), "contradiction"),
        (scores(novelty=0.3), None),
        (scores(novelty=np.nextafter(0.3, 0)), "novel"),
        (scores(novelty=None), None),
        (scores(rouge=1.0, delta=-0.9, right=False), "contradiction"),
        (scores(rouge=1.0, delta=-0.9, novelty=0.0), "breakthrough"),
    ],
)
def test_the_rule_at_its_boundaries(case: Scores, expected: str | None) -> None:
    assert rules.reason(case, SETTINGS) == expected


@given(SHARE, DELTA, st.none() | st.floats(-2, 2), st.booleans(), st.none() | st.floats(-1, 1))
def test_an_event_is_queued_exactly_when_one_of_the_four_holds(
    rouge: float, delta: float, margin: float | None, right: bool, novelty: float | None
) -> None:
    found = rules.reason(Scores(rouge, delta, margin, right, novelty), SETTINGS)

    contradiction = not right or (margin is not None and margin < 0)
    novel = novelty is not None and novelty < 0.3
    breakthrough = rouge > 0.7 and delta < -0.1
    assert (found is not None) == (breakthrough or abs(delta) > 0.15 or contradiction or novel)
    assert (found == "contradiction") == contradiction
