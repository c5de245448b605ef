"""What the benchmark of routing asks, and how it counts."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.routing.domains import unrelated
from benchmarks.routing.population import Population, cards_of, population
from benchmarks.routing.run import BASE, UNRELATED, confusion_of
from benchmarks.routing.speed import WrongAnswers, check
from lora.training.background import background_questions
from services.runtime.skill_index import SkillIndex


def test_the_unrelated_are_many_and_none_is_of_the_background() -> None:
    questions = unrelated()
    assert len(questions) >= 1200
    folded = {question.casefold().rstrip("?") for question in questions}
    assert len(folded) == len(questions)
    assert not folded & {question.casefold().rstrip("?") for question in background_questions()}
    assert len({" ".join(question.casefold().split()[:2]) for question in questions}) > 700


def test_the_table_counts_every_query_once() -> None:
    origins = ["a", "a", "b", UNRELATED]
    answers = ["a", BASE, "a", BASE]
    assert confusion_of(origins, answers) == {
        "a": {"a": 1, BASE: 1},
        "b": {"a": 1},
        UNRELATED: {BASE: 1},
    }


@pytest.fixture(scope="module")
def small() -> Population:
    random = np.random.default_rng(3)
    along = 1 / (1 + np.arange(24, dtype=np.float32))
    vectors = (random.normal(size=(400, 24)) * along + 0.2).astype(np.float32)
    background = (random.normal(size=(400, 24)) * along[::-1]).astype(np.float32)
    return population(vectors, background, 300, 64, 1)


def index_of(found: Population) -> SkillIndex:
    index = SkillIndex(24, 0.5)
    for card in cards_of(found):
        index.install(card)
    return index


def test_the_skills_made_for_the_benchmark_route_as_learned_ones_do(small: Population) -> None:
    counts = np.diff(np.append(small.starts, len(small.points)))
    assert counts.min() >= 3
    assert counts.max() <= 8
    assert len(small.boundaries) == len(small.thresholds) == 300
    again = population(small.points[:300], small.others, 300, 8, 1)
    assert np.array_equal(
        again.points, population(small.points[:300], small.others, 300, 8, 1).points
    )
    index = index_of(small)
    answered = [bool(it.matches) for it in index.decide("query", small.own, 1)]
    strangers = [bool(it.matches) for it in index.decide("query", small.others, 1)]
    assert np.mean(answered) > np.mean(strangers)


def test_an_index_that_answers_wrong_is_not_timed(small: Population) -> None:
    index = index_of(small)
    check(index, small)
    index.remove(*(card.digest for card in list(cards_of(small))[::2]))
    with pytest.raises(WrongAnswers):
        check(index, small)
