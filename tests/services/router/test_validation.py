"""Requests that contradict themselves are refused in one sentence."""

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas import AssignedRow, EncodeAssigned, EncodeRequested, Event, SkillRef, encode
from services.router.errors import Refused
from services.router.validation import check, check_assignment


def asked(**changes: Any) -> EncodeRequested:
    return EncodeRequested(**{"texts": ("a",), "reply_to": "client", **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"route": "base"},
        {"route": "named", "skills": ("law", "tax", "art")},
        {"intent": "legal questions", "top_k": 3},
        {"texts": ("", "b")},
        {"role": "document"},
    ],
)
def test_sound_requests_pass(changes: dict[str, Any]) -> None:
    check(asked(**changes), max_texts=2, max_text_bytes=100)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"texts": ()}, "texts is empty"),
        ({"reply_to": ""}, "reply_to is empty"),
        ({"route": "named"}, "needs skills"),
        ({"route": "named", "skills": ("a", "b", "c", "d")}, "at most 3"),
        ({"skills": ("law",)}, "goes with route 'named'"),
        ({"route": "base", "skills": ("law",)}, "goes with route 'named'"),
        ({"top_k": 0}, "from 1 to 3"),
        ({"top_k": 4}, "from 1 to 3"),
        ({"route": "base", "top_k": 2}, "top_k goes with route 'auto'"),
        ({"route": "base", "intent": "x"}, "intent goes with route 'auto'"),
        ({"intent": ""}, "intent is empty"),
    ],
)
def test_contradictions_are_invalid(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        check(asked(**changes), max_texts=2, max_text_bytes=100)
    assert refused.value.code == "invalid"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"texts": ("a", "b", "c")}, "2 texts, not 3"),
        ({"texts": ("a", "é" * 51)}, "text 1 has 102 bytes, 100 are allowed"),
        ({"intent": "x" * 101}, "the intent has 101 bytes"),
    ],
)
def test_too_much_is_too_large(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        check(asked(**changes), max_texts=2, max_text_bytes=100)
    assert refused.value.code == "too_large"


def test_the_limit_itself_is_allowed() -> None:
    check(asked(texts=("x" * 100, "é" * 50)), max_texts=2, max_text_bytes=100)


def test_all_texts_together_must_fit_into_an_event() -> None:
    check(asked(texts=("x" * 50_000,) * 16), max_texts=100, max_text_bytes=60_000)
    with pytest.raises(Refused, match="split the request") as refused:
        check(asked(texts=("x" * 50_000,) * 20), max_texts=100, max_text_bytes=60_000)
    assert refused.value.code == "too_large"
    with pytest.raises(Refused, match="split the request"):
        check(asked(texts=("\x01" * 50_000,) * 4), max_texts=100, max_text_bytes=60_000)


MIB = 1 << 20


def assigned(texts: int, cards: int, letters: int = 8, per_row: int = 3) -> Event[EncodeAssigned]:
    """Texts of some letters, whose rows share so many cards with the longest names."""
    skills = tuple(
        SkillRef(digest=f"sha256:{n:064x}", name=f"{n:x}".rjust(64, "a"), version=n + 1)
        for n in range(cards)
    )
    rows = tuple(
        AssignedRow(skills=tuple(((3 * n + k) % cards, 0.123456789) for k in range(per_row)))
        for n in range(texts)
    )
    data = EncodeAssigned(
        request_id="r",
        texts=("x" * letters,) * texts,
        role="query",
        deadline=datetime(2030, 1, 1, tzinfo=UTC),
        skills=skills,
        rows=rows,
        reply_to="client",
        router="router-1",
    )
    return Event(data=data, source="/router/1", to="encoder-1")


def test_an_assignment_that_fits_into_an_event_passes() -> None:
    whole = assigned(1024, 300, letters=500)
    assert len(encode(whole)) < MIB
    check_assignment(whole, MIB)


def test_long_texts_with_few_cards_are_measured_before_they_are_refused() -> None:
    event = assigned(100, 3, letters=8000)
    assert MIB < 6 * 100 * 8000, "a character may take six bytes, these take one"
    check_assignment(event, MIB)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (assigned(1024, 3072, letters=500), "1024 texts with 3072 different skills"),
        (assigned(4096, 3), "4096 texts with 3 different skills"),
    ],
    ids=["more cards than an assignment can name", "more rows than an answer can tell"],
)
def test_what_no_event_can_carry_is_refused_with_what_to_do(
    event: Event[EncodeAssigned], says: str
) -> None:
    with pytest.raises(Refused, match=f"{says}.*split the request") as refusal:
        check_assignment(event, MIB)
    assert refusal.value.code == "too_large"
