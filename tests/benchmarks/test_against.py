"""The race to the same recall: who came when, and what stands for one who never did."""

from __future__ import annotations

import pytest

from benchmarks.installation.lessons import Lessons
from benchmarks.learning.against import Raced, modules, options_of, report_of
from benchmarks.learning.peer import Look, Tried


def raced(seed: int = 1, recall: float = 0.6) -> Raced:
    slow = Tried(recipe="documented", looks=[Look(20.0, 0.4), Look(50.0, 0.7)])
    fast = Tried(recipe="chosen", looks=[Look(10.0, 0.5), Look(30.0, 0.6), Look(40.0, 0.55)])
    found = Raced(seed, base=0.3, peers=[fast, slow])
    found.recall["head"], found.seconds["head"] = recall, 2.0
    return found


@pytest.mark.parametrize(
    ("recall", "expected"), [(0.5, (10.0, True)), (0.65, (50.0, True)), (0.8, (50.0, False))]
)
def test_the_fastest_recipe_counts(recall: float, expected: tuple[float, bool]) -> None:
    assert raced(recall=recall).peer_s("head") == expected


def test_the_report_compares_round_by_round_and_says_what_was_not_reached() -> None:
    data = modules(Lessons(("a", "b", "c", "d"), (0, 1, 0, 1), ("x", "y")))
    assert data.train.texts == ("a", "c")
    assert data.test.own == (1, 1)
    given = options_of(["--against", "sentence-transformers", "--no-body"])
    found = report_of([raced(), raced(2, 0.8), Raced(3)], data, given, {}).found()
    (head,) = found["comparisons"]
    assert (head["least"], head["most"], head["met"]) == (15.0, 25.0, True)
    assert any("2 of 3 rounds" in note for note in found["notes"])
    assert any("1 of 2 rounds the peer never" in note for note in found["notes"])
