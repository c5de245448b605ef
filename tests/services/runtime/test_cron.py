"""Cron expressions in a time zone: the clock's leaps, and sentences for what is none."""

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.cron import check, next_time, zone_of

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def following(expression: str, after: float, count: int) -> list[float]:
    times = []
    for _ in range(count):
        after = next_time(expression, "Europe/Berlin", after)
        times.append(after)
    return times


def test_a_night_is_the_zones_night_in_summer_and_in_winter() -> None:
    nights = following("0 3 * * *", at("2026-03-27 12:00"), 3)

    # 29 March has only 23 hours.
    assert nights == [at("2026-03-28 03:00"), at("2026-03-29 03:00"), at("2026-03-30 03:00")]
    assert nights[1] - nights[0] == 23 * 3600


def test_an_hour_that_the_clock_leaps_over_is_not_left_out() -> None:
    due = following("30 2 * * *", at("2026-03-28 12:00"), 2)

    assert due == [at("2026-03-29 03:00"), at("2026-03-30 02:30")]


def test_an_hour_that_comes_twice_is_due_once() -> None:
    due = following("30 2 * * *", at("2026-10-24 12:00"), 2)

    assert due == [at("2026-10-25 02:30", fold=0), at("2026-10-26 02:30")]
    assert next_time("30 2 * * *", "Europe/Berlin", at("2026-10-25 02:10", fold=1)) == due[1]


def test_every_half_hour_goes_on_through_an_hour_that_comes_twice() -> None:
    due = following("*/30 * * * *", at("2026-10-25 01:45"), 6)

    assert {later - earlier for earlier, later in pairwise(due)} == {1800.0}


@given(st.floats(0, 4e9), st.sampled_from(["0 3 * * *", "30 2 * * *", "*/2 * * * *", "0 0 1 * *"]))
def test_what_is_due_next_is_later(after: float, expression: str) -> None:
    assert next_time(expression, "Europe/Berlin", after) > after


def test_the_machines_zone_has_its_summer_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":America/New_York")

    assert zone_of(None) == ZoneInfo("America/New_York")
    monkeypatch.setenv("TZ", "nowhere/at-all")
    assert next_time("0 3 * * *", None, 0.0) > 0.0


@pytest.mark.parametrize(
    ("expression", "zone", "sentence"),
    [
        ("daily", None, "'daily' is no cron expression of five fields"),
        ("61 3 * * *", None, "bad minute"),
        ("0 0 31 2 *", None, "bad day-of-month"),
        ("0 3 * * *", "Mars/Base", "'Mars/Base' is no time zone known here"),
        ("0 3 * * *", "../etc/passwd", "is no time zone known here"),
    ],
)
def test_what_says_no_time_is_refused(expression: str, zone: str | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check(expression, zone)
