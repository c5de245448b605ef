"""Which skill answers: nobody where it is anybody's guess, several only with evidence."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.adapter import Adapter
from lora.boundary import BOUNDARY, Boundary, sides
from lora.card import BaseModel, LoRACard
from lora.errors import CardInvalidError
from lora.neighbours import AMBIGUOUS, BETWEEN, beside_key, stacks_key
from lora.router import LoRARouter

MODEL = BaseModel("test", "0" * 64)


def card(name: str, degrees: float, **fields: Any) -> LoRACard:
    """A skill whose one prototype lies at this angle in the plane."""
    angle = np.radians(degrees)
    ones = np.ones((2, 1), np.float32)
    return LoRACard(
        **{
            "name": name,
            "version": 1,
            "rank": 1,
            "alpha": 1.0,
            "target_modules": ("embedding",),
            "base_model": MODEL,
            "dim": 2,
            "modules": {"embedding": Adapter(ones, ones.T.copy(), 1, 1.0)},
            "prototypes": np.array([[np.cos(angle), np.sin(angle)]], np.float32),
            "threshold": 0.5,
            "digest": "sha256:" + f"{zlib.crc32(name.encode()):016x}".ljust(64, "0"),
            **fields,
        }
    )


def at(degrees: float) -> np.ndarray:
    return np.array([[np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]], np.float32)


def router(*cards: LoRACard) -> LoRARouter:
    made = LoRARouter(2)
    for it in cards:
        made.register_card(it)
    return made


def names(made: LoRARouter, degrees: float, top_k: int = 1) -> tuple[list[str], str | None]:
    (found,) = made.decide(at(degrees), top_k)
    return [match.name for match in found.matches], found.reason


def test_two_skills_about_equally_near_that_do_not_know_each_other_are_ambiguous() -> None:
    one, two = card("one", 0), card("two", 30)
    made = router(one, two)
    assert names(made, 15) == ([], "ambiguous")
    assert names(made, 5) == (["one"], None)
    assert names(made, 25) == (["two"], None)
    assert names(made, 180) == ([], "below_threshold")


@pytest.mark.parametrize("who", ["one", "two"])
def test_a_card_that_was_told_from_the_other_decides(who: str) -> None:
    other = {"one": "two", "two": "one"}[who]
    cards = {name: card(name, angle) for name, angle in (("one", 0), ("two", 30))}
    knows = {beside_key(other): 0.0}
    cards[who] = card(who, {"one": 0, "two": 30}[who], metrics=knows)
    assert names(router(*cards.values()), 14.9) == (["one"], None)


def test_a_nearer_skill_that_does_not_answer_keeps_an_ignorant_one_from_it() -> None:
    strict = card("strict", 30, threshold=0.999)
    assert names(router(card("loose", 0), strict), 20) == ([], "ambiguous")
    knowing = card("loose", 0, metrics={beside_key("strict"): 0.0})
    assert names(router(knowing, strict), 20) == (["loose"], None)


def test_what_a_peer_offers_is_no_rival() -> None:
    made = router(card("ours", 0))
    made.register_virtual_candidate("theirs", "sha256:" + "f" * 64, at(10), threshold=0.9999)
    assert names(made, 9) == (["ours"], None)


def test_an_offer_that_lies_nearer_keeps_no_skill_that_is_here_from_answering() -> None:
    made = router(card("ours", 0))
    made.register_virtual_candidate("theirs", "sha256:" + "f" * 64, at(40), threshold=0.5)
    assert names(made, 21) == (["ours"], None)
    assert names(made, 50) == (["theirs"], None)


def test_a_boundary_stops_what_the_cosine_lets_through() -> None:
    plane = Boundary(np.array([0.0, 1.0], np.float32), 0.0)
    made = router(card("upper", 0, extra={BOUNDARY: plane.to_text()}))
    assert names(made, 20) == (["upper"], None)
    assert names(made, -20) == ([], "below_threshold")
    assert made.select(at(-20)[0]) == []


def test_a_boundary_comes_back_as_it_was_written() -> None:
    plane = Boundary(np.array([0.25, -0.5], np.float32), 0.125)
    again = Boundary.from_text(plane.to_text(), 2)
    assert np.array_equal(again.normal, plane.normal)
    assert again.offset == plane.offset
    assert sides(np.array([[8.0, 0.0], [0.0, 8.0]], np.float32), again).tolist() == [True, False]


@pytest.mark.parametrize(
    "text", ["", "not base64!", "AAAA", Boundary(np.full(2, np.nan, np.float32), 0).to_text()]
)
def test_a_boundary_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(CardInvalidError, match="boundary"):
        Boundary.from_text(text, 2)
    with pytest.raises(CardInvalidError, match="boundary"):
        card("one", 0, extra={BOUNDARY: text})


angles = st.integers(-180, 180)


@given(
    angles,
    st.lists(angles, min_size=1, max_size=4, unique=True),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([-0.1, 0.0, 0.1]))),
    st.integers(1, 3),
)
def test_a_stack_has_evidence_for_every_pair(
    query: int, places: list[int], evidence: set[tuple[int, int, float]], top_k: int
) -> None:
    """And passes every threshold, lies between, has no more than asked, and is the same again."""
    bare = [card(f"skill-{i}", place) for i, place in enumerate(places)]
    cards = []
    for i, it in enumerate(bare):
        metrics = {beside_key(other.name): 0.0 for other in bare if other is not it}
        metrics |= {
            stacks_key(bare[b].key): low
            for a, b, low in sorted(evidence)
            if a == i and b < len(bare)
        }
        cards.append(card(it.name, places[i], metrics=metrics))
    (found,) = router(*cards).decide(at(query), top_k)
    assert (found,) == tuple(router(*reversed(cards)).decide(at(query), top_k))
    assert len(found.matches) <= top_k
    assert bool(found.matches) == (found.reason is None)
    scores = [match.score for match in found.matches]
    assert all(score >= 0.5 for score in scores)
    assert not scores or scores[0] - scores[-1] <= BETWEEN
    by_name = {it.name: it for it in cards}
    for i, below in enumerate(found.matches):
        for upon in found.matches[i + 1 :]:
            assert by_name[below.name].metrics[stacks_key(upon.digest)] > 0  # type: ignore[operator]


def test_the_margins_are_in_order() -> None:
    """What is ambiguous sits between."""
    assert 0 < AMBIGUOUS < BETWEEN
