"""Requests that contradict themselves are refused in one sentence."""

from typing import Any

import pytest

from schemas import EncodeRequested
from services.router.errors import Refused
from services.router.validation import check


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
