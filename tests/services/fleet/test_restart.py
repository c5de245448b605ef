"""Backoff and its limit, with a clock of our own."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fleet.restart import Failures, RestartPolicy

POLICY = RestartPolicy(limit=5, window=60.0, first=1.0, longest=3.0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_waits_double_up_to_the_longest_and_then_there_are_no_more() -> None:
    failures = Failures(POLICY, clock=Clock(), chance=random.Random(1))

    waits = [failures.record() for _ in range(5)]

    for wait, full in zip(waits[:4], (1.0, 2.0, 3.0, 3.0), strict=True):
        assert wait is not None
        assert full / 2 <= wait <= full
    assert waits[4] is None


def test_failures_older_than_the_window_are_forgotten() -> None:
    clock = Clock()
    failures = Failures(POLICY, clock=clock, chance=random.Random(1))
    for _ in range(4):
        failures.record()

    clock.now += 60.0
    wait = failures.record()

    assert wait is not None
    assert wait <= 1.0
    assert len(failures) == 1


@pytest.mark.parametrize("limit", [1, 3])
@given(gaps=st.lists(st.floats(0, 100), max_size=30))
def test_it_gives_up_exactly_when_the_window_holds_the_limit(limit: int, gaps: list[float]) -> None:
    clock = Clock()
    policy = RestartPolicy(limit=limit, window=60.0, first=1.0, longest=3.0)
    failures = Failures(policy, clock=clock, chance=random.Random(1))
    times: list[float] = []
    for gap in gaps:
        clock.now += gap
        times.append(clock.now)

        within = [time for time in times if time > clock.now - 60.0]
        assert (failures.record() is None) == (len(within) >= limit)


def test_processes_that_failed_together_do_not_come_back_together() -> None:
    chance = random.Random(1)
    waits = {Failures(POLICY, clock=Clock(), chance=chance).record() for _ in range(20)}
    assert len(waits) == 20
