"""What the benchmark of routing asks, and how it counts."""

from __future__ import annotations

from benchmarks.routing.domains import unrelated
from benchmarks.routing.run import BASE, UNRELATED, confusion_of
from lora.training.background import background_questions


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
