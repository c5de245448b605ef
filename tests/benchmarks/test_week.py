"""The simulated week: what each day brings, how it is told, and how it is drawn."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from rich.console import Console

from benchmarks.kit.measure import Figures
from benchmarks.learning.data import DataError, DataSet, Queries
from benchmarks.week.calendar import Day, cron_of, plan_week
from benchmarks.week.history import Entry, History
from benchmarks.week.picture import draw
from benchmarks.week.run import Evening, Killed, Week
from benchmarks.week.table import as_json, show
from services.runtime.cron import next_time

CATEGORIES = 10


def data(questions: int = 400) -> DataSet:
    def half(name: str) -> Queries:
        own = tuple(number % CATEGORIES for number in range(questions))
        return Queries(tuple(f"{name} {number}" for number in range(questions)), own)

    passages = tuple(f"category {number}" for number in range(CATEGORIES))
    return DataSet(train=half("train"), test=half("test"), passages=passages)


def test_categories_enter_over_the_week_and_no_question_is_given_twice() -> None:
    week = plan_week(data(), 7, 20, bad_day=5, seed=3)

    known = [set(day.categories) for day in week]
    assert all(earlier <= later for earlier, later in pairwise(known))
    assert len(known[0]) < len(known[-1]) == CATEGORIES
    for day in week:
        assert set(day.feedback.own) | set(day.held_out.own) <= set(day.categories)
        assert all(text.startswith("train") for text in day.feedback.texts)
        assert all(text.startswith("test") for text in day.held_out.texts)
        assert len(day.wrong) == (10 if day.number == 5 else 0)
    given = [text for day in week for text in day.feedback.texts]
    assert len(set(given)) == len(given)
    assert {kill.service for day in week for kill in day.kills} > {"factory"}


def test_a_seed_tells_one_week_and_too_few_questions_none() -> None:
    assert plan_week(data(), 3, 20, bad_day=None, seed=1) == plan_week(
        data(), 3, 20, bad_day=None, seed=1
    )
    with pytest.raises(DataError, match="are left"):
        plan_week(data(60), 7, 20, bad_day=None, seed=1)


def test_a_day_is_as_long_as_cron_can_tell() -> None:
    first = next_time(cron_of(120), "UTC", 1e9)
    assert next_time(cron_of(120), "UTC", first) - first == 120.0
    with pytest.raises(ValueError, match="number of minutes"):
        cron_of(90)


def lived(days: list[Day]) -> Week:
    """A week with one of each: versions, a refusal, a retirement, kills, a failure."""
    base, fleet = Figures(0.6, 0.7, 100), Figures(0.7, 0.8, 100)
    gate = {"before": 0.7, "after": 0.8, "low": 0.05, "high": 0.15, "groups": 90}
    return Week(
        evenings=[
            Evening(day, 100.0 * day.number - 15, 20 * day.number, base, fleet, 0.9, 2)
            for day in days
        ],
        nights=[100.0 * number for number in range(len(days) + 1)],
        kills=[Killed("router", 1, 40.0), Killed("factory", 2, 110.0)],
        history=History(
            (
                Entry("published", 30.0, version=1, depth="head", attempts=1, seconds=2.0, **gate),
                Entry("published", 31.0, version=2, depth="body", attempts=2, seconds=9.0, **gate),
                Entry("rejected", 120.0, depth="head", reason="head: does not beat it", **gate),
                Entry("retired", 150.0, version=2, reason="worse <than> version 1"),
            ),
            given=40,
            judged=40,
            twice=0,
            tasks=4,
            superseded=1,
        ),
        given=40,
        answered=1000,
        failures=["RequestTimeout: nobody answered"],
    )


def test_the_picture_is_svg_and_marks_what_happened() -> None:
    week = lived(plan_week(data(), 2, 20, bad_day=2, seed=1))
    drawn = draw(week)
    texts = [text for it in ElementTree.fromstring(drawn).iter() if (text := it.text)]  # noqa: S314

    assert {"Mon", "Tue", "half wrong", "v1", "v2", "router", "factory"} <= set(texts)
    assert any("worse <than> version 1" in text for text in texts)


def test_the_tables_and_the_json_say_what_became_of_it() -> None:
    week = lived(plan_week(data(), 2, 20, bad_day=2, seed=1))
    out = io.StringIO()
    show(Console(file=out, width=160), week)
    found = json.loads(json.dumps(as_json(week, {"days": 2})))

    for text in ("published 1", "retired 2", "0.700 → 0.800", "does not beat it", "1 failed"):
        assert text in out.getvalue()
    assert [entry["day"] for entry in found["history"]["entries"]] == ["Mon", "Mon", "Tue", "Tue"]
    assert found["failed"] == 1
