"""A generation that somebody watched: when it is a clash, and what is learned from it."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Event, FeedbackGiven, FeedbackJudged, GenerationObserved, LearningEvent
from services.dissonance_monitor.embedding import Served
from services.dissonance_monitor.judge import Piece, judge, scores_of, settled
from services.dissonance_monitor.memory import Neighbours
from services.dissonance_monitor.rouge import rouge_l
from services.runtime.settings import MonitorSettings
from tests.services.factory.fakes import DIM, vector

SETTINGS = MonitorSettings()
TEN = "a b c d e f g h i j"
SEVEN = "a b c d e f g x y z"
"""ROUGE-L F1 of exactly 7 in 10 against `TEN`."""
EIGHT = "a b c d e f g h y z"
NOBODY = Neighbours(np.zeros((0, DIM), np.float32), ())


def observed(
    output: str = TEN,
    before: float = 0.0,
    after: float = 0.0,
    novelty: float | None = None,
    prompt: str = "which letters",
) -> tuple[FeedbackJudged, LearningEvent | None]:
    """What is said of it."""
    data = GenerationObserved(
        prompt=prompt, output=output, reference=TEN, entropy_before=before, entropy_after=after
    )
    piece = Piece.of(Event(data=data, source="/client/1"))
    vectors = {text: vector(text) for text in piece.texts}
    served = Served(vector(prompt), vector(prompt), ())
    scores = scores_of(piece, served, vectors, {}, NOBODY, novelty, SETTINGS)
    told = settled(piece, served, vectors, scores, SETTINGS)
    found = judge(told, served, scores, "letters", "/monitor/1", SETTINGS)
    return found.events[0].data, None if found.clash is None else found.clash.data


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_blank_prompt_teaches_nothing(blank: str) -> None:
    judged, clash = observed(prompt=blank, before=1.0, novelty=0.0)

    assert (judged.relevant, judged.irrelevant, clash) == ((), (), None)


def test_blank_passages_and_blank_queries_are_left_out_of_feedback() -> None:
    data = FeedbackGiven(query="q", relevant=("", "a", "a"), irrelevant=(" ", "b", "a"))
    piece = Piece.of(Event(data=data, source="/client/1"))
    blank = Piece.of(Event(data=msgspec.structs.replace(data, query=" "), source="/client/1"))

    assert (piece.relevant, piece.irrelevant) == (("a",), ("b",))
    assert blank.passages == ()


def below(value: float) -> float:
    return math.nextafter(value, -math.inf)


def above(value: float) -> float:
    return math.nextafter(value, math.inf)


@pytest.mark.parametrize(
    ("output", "before", "after", "novelty", "reason"),
    [
        (TEN, 0.1, 0.0, None, None),  # a fall of exactly 0.1 is not below it
        (TEN, above(0.1), 0.0, None, "breakthrough"),
        (SEVEN, 0.12, 0.0, None, None),  # and 0.7 is not above 0.7
        (EIGHT, 0.12, 0.0, None, "breakthrough"),
        (SEVEN, 0.15, 0.0, None, None),
        (SEVEN, above(0.15), 0.0, None, "entropy"),
        (TEN, 0.0, 0.15, None, None),
        (TEN, 0.0, above(0.15), None, "entropy"),
        (TEN, 0.0, 0.0, 0.3, None),
        (TEN, 0.0, 0.0, below(0.3), "novel"),
        (SEVEN, above(0.15), 0.0, 0.0, "entropy"),
        (TEN, above(0.1), 0.0, 0.0, "breakthrough"),
        ("", 0.0, 0.0, None, None),
    ],
)
def test_the_rule_at_its_boundaries(
    output: str, before: float, after: float, novelty: float | None, reason: str | None
) -> None:
    _, clash = observed(output, before, after, novelty)

    assert (None if clash is None else clash.reason) == reason
    assert clash is None or clash.is_breakthrough == (reason == "breakthrough")


WORDS = st.lists(st.sampled_from([*TEN.split(), "x", "y"]), max_size=14).map(" ".join)
SHARE = st.floats(0, 1)


@given(WORDS, SHARE, SHARE, st.none() | st.floats(-1, 1))
def test_a_generation_is_a_clash_exactly_by_rouge_entropy_and_novelty(
    output: str, before: float, after: float, novelty: float | None
) -> None:
    judged, clash = observed(output, before, after, novelty)

    rouge, delta = rouge_l(output, (TEN,)), after - before
    breakthrough = rouge > 0.7 and delta < -0.1
    novel = novelty is not None and novelty < 0.3
    assert (judged.rouge_score, judged.entropy_delta, judged.margin) == (rouge, delta, None)
    assert (clash is not None) == (breakthrough or abs(delta) > 0.15 or novel)
    assert clash is None or clash.is_breakthrough == breakthrough
    assert clash is None or clash.reason != "contradiction"
    assert judged.relevant == (TEN,)
    assert judged.irrelevant in ((), (output,))
    assert not (judged.irrelevant and rouge > 0.7)


def test_the_output_is_irrelevant_where_it_was_wrong() -> None:
    judged, clash = observed("which letters you say", 0.0, 0.5)

    assert judged.irrelevant == ("which letters you say",)
    assert clash is not None
    assert (clash.positives, clash.negatives) == ((TEN,), judged.irrelevant)


@pytest.mark.parametrize(
    "output",
    [
        TEN,
        f" {TEN}\n",
        "  ",
        EIGHT,
        "j i h g f e d c b a",  # other words for the same: as near to the prompt
    ],
)
def test_what_was_right_or_may_be_is_no_negative(output: str) -> None:
    judged, _ = observed(output, 0.0, 0.5)

    assert judged.irrelevant == ()
