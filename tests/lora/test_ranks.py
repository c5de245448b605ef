"""Ranks under a budget, and how unequal scores are."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.errors import ConfigError
from lora.ranks import gini, parameters, share_ranks, top_tenth

SCORES = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


@given(SCORES, st.integers(20, 4000), st.integers(1, 40))
def test_the_budget_is_kept_and_used_up(values, budget, cap) -> None:
    scores = {f"m{i}": value for i, value in enumerate(values)}
    shapes = {name: (8, 8 + 4 * (i % 2)) for i, name in enumerate(scores)}
    ranks = share_ranks(scores, shapes, budget, max_rank=cap)
    used = parameters(ranks, shapes)
    assert used <= budget
    for name in scores:
        full = ranks.get(name, 0) == min(cap, *shapes[name])
        assert full or used + sum(shapes[name]) > budget


@given(SCORES, st.integers(1, 12))
def test_a_better_layer_of_the_same_price_never_gets_less(values, units) -> None:
    scores = {f"m{i}": value for i, value in enumerate(values)}
    ranks = share_ranks(scores, dict.fromkeys(scores, (50, 50)), 100 * units)
    assert sum(ranks.values()) == units
    for one, two in itertools.permutations(scores, 2):
        if scores[one] > scores[two]:
            assert ranks.get(one, 0) >= ranks.get(two, 0)


def test_no_other_split_of_the_budget_is_worth_more() -> None:
    scores = {"a": 3.0, "b": 1.0, "c": 2.0}
    shapes = dict.fromkeys(scores, (10, 10))

    def worth(ranks) -> float:
        return sum(scores[name] * math.log(1 + rank) for name, rank in ranks.items())

    best = max(
        worth(dict(zip(scores, split, strict=True)))
        for split in itertools.product(range(8), repeat=3)
        if sum(split) <= 7
    )
    assert worth(share_ranks(scores, shapes, 7 * 20)) == pytest.approx(best)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="buys no rank"):
        share_ranks({"a": 1.0}, {"a": (10, 10)}, 19)
    with pytest.raises(ConfigError, match="buys no rank"):
        share_ranks({"a": 0.0}, {"a": (10, 10)}, 1000)
    with pytest.raises(ConfigError, match="not so for a"):
        share_ranks({"a": math.nan}, {"a": (10, 10)}, 1000)
    with pytest.raises(ConfigError, match="max_rank"):
        share_ranks({"a": 1.0}, {"a": (10, 10)}, 1000, max_rank=0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_gini_is_that_of_its_definition(values) -> None:
    pairs = sum(abs(x - y) for x, y in itertools.product(values, repeat=2))
    mean = sum(values) / len(values)
    expected = pairs / (2 * len(values) ** 2 * mean) if mean else 0.0
    assert gini(values) == pytest.approx(expected, abs=1e-9)


def test_concentration_at_its_ends() -> None:
    assert gini([2.0] * 9) == pytest.approx(0)
    assert gini([0.0] * 99 + [1.0]) == pytest.approx(0.99)
    assert gini([]) == top_tenth([]) == 0
    assert top_tenth([1.0] * 20) == pytest.approx(0.1)
    assert top_tenth({"a": 3.0, "b": 1.0}) == pytest.approx(0.75)
