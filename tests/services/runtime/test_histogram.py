"""Histograms as counters: what is told is what was counted, and stretches of it can be had."""

import pytest

from services.runtime.histogram import Buckets, Histogram


def told(*values: float, bounds: tuple[float, ...] = (10, 100)) -> dict[str, int | float]:
    histogram = Histogram("ms", bounds)
    for value in values:
        histogram.add(value)
    return histogram.counters()


def test_values_count_for_every_bound_that_is_not_below_them() -> None:
    assert told(3, 10, 11, 5000) == {
        "ms_le_10": 2,
        "ms_le_100": 3,
        "ms_count": 4,
        "ms_sum": 5024,
    }


def test_it_is_found_among_other_counters() -> None:
    counters = {"batches": 3, "ms_le_odd": 1, **told(3, 50)}
    assert Buckets.of(counters, "ms") == Buckets((10.0, 100.0), (1.0, 2.0), 2.0, 53.0)


@pytest.mark.parametrize("counters", [{}, {"ms_count": 1}, {"ms_le_5": 1}], ids=str)
def test_half_a_histogram_is_none(counters: dict[str, int]) -> None:
    assert Buckets.of(counters, "ms") is None


def test_two_moments_of_it_can_be_subtracted() -> None:
    before, after = Buckets.of(told(3), "ms"), Buckets.of(told(3, 50, 60), "ms")
    assert before is not None
    assert after is not None
    assert after.plus(before, -1.0) == Buckets((10.0, 100.0), (0.0, 2.0), 2.0, 110.0)


def test_of_other_bounds_the_newer_stands_alone() -> None:
    """A process of another release took the place of the one before."""
    before, after = Buckets.of(told(3, bounds=(7,)), "ms"), Buckets.of(told(3), "ms")
    assert before is not None
    assert after is not None
    assert after.plus(before, -1.0) == after
    assert before.plus(after) == after


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [
        ((), 0.5, None),
        ((50,), 0.5, 55.0),
        ((5, 5, 5, 50), 0.75, 10.0),
        ((5, 5, 5, 50), 0.875, 55.0),
        ((5000,), 0.5, 100.0),
    ],
    ids=str,
)
def test_a_quantile_lies_between_bounds(
    values: tuple[float, ...], share: float, found: float | None
) -> None:
    buckets = Buckets.of(told(*values), "ms")
    assert buckets is not None
    assert buckets.quantile(share) == found
