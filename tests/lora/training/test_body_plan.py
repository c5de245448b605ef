"""Planning: what is given up first when time is short, and what never is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.training.body_plan import makespan, plan

SIZES = dict.fromkeys(range(5), 50)


def _plan(groups: int = 250, *, budget: float | None, per_row: float = 0.01, workers: int = 2):
    return plan(SIZES, groups, epochs=6, workers=workers, per_row=per_row, budget=budget)


def test_without_a_budget_everything_is_done():
    made = _plan(budget=None)
    assert made.epochs == 6
    assert made.judged == (0, 1, 2, 3, 4)
    assert made.inner == ((0, 1), (0, 4), (1, 2), (2, 3), (3, 4))


def test_passes_go_before_inner_fits_and_inner_fits_before_folds():
    whole = _plan(budget=None).seconds
    shorter = [_plan(budget=whole * share) for share in (1.0, 0.9, 0.6, 0.3)]
    assert [made.epochs for made in shorter[:2]] == [6, 5]
    assert len(shorter[2].judged) == 5
    assert len(shorter[2].inner) == 3
    assert len(shorter[3].judged) == 1


def test_few_groups_are_judged_on_all_folds_whatever_it_takes():
    made = _plan(groups=199, budget=0.0)
    assert len(made.judged) == 5
    assert made.epochs == 1


@given(
    st.lists(st.integers(0, 500), min_size=5, max_size=5).filter(lambda s: sum(map(bool, s)) > 1),
    st.floats(0.1, 1000),
    st.integers(1, 4),
    st.integers(1, 2000),
)
def test_a_plan_keeps_its_budget_or_is_the_smallest_and_every_judged_fold_has_an_inner_one(
    sizes, budget, workers, groups
):
    def made(seconds: float | None):
        return plan(
            dict(enumerate(sizes)),
            groups,
            epochs=6,
            workers=workers,
            per_row=0.01,
            budget=seconds,
        )

    found = made(budget)
    assert found.seconds <= budget or found == made(0.0)
    for fold in found.judged:
        assert any(fold in pair for pair in found.inner)


def test_makespan_shares_jobs_among_workers():
    assert makespan([3, 3, 2, 2, 2], 2) == pytest.approx(7)
    assert makespan([3, 3, 2, 2, 2], 1) == pytest.approx(12)
    assert makespan([], 2) == 0
