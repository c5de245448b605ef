"""Who sent what cannot be read is told, as far as it says who that is."""

import json
from typing import Any

import pytest

from schemas import EncodeFailed, EventRefused, refusals

ASKED = {
    "specversion": "1.0",
    "id": "r1",
    "source": "/shop/1",
    "type": "encode.requested",
    "data": {"texts": ["\ud800"], "reply_to": "shop-1"},
}


def told(attributes: object, *, code: str = "malformed", thorough: bool = True) -> list[Any]:
    raw = json.dumps(attributes).encode()
    return [e.data for e in refusals(raw, code, "why", source="/broker/1", thorough=thorough)]


def test_a_request_is_answered_as_a_refused_event_and_then_as_a_failed_request() -> None:
    assert told(ASKED) == [
        EventRefused(id="r1", code="malformed", message="why"),
        EncodeFailed(request_id="r1", code="invalid", message="why"),
    ]
    assert told(ASKED, code="too_large")[1].code == "too_large"


def test_only_who_asks_for_vectors_is_told_of_vectors() -> None:
    assert [type(each) for each in told({**ASKED, "type": "feedback.given"})] == [EventRefused]
    assert [type(each) for each in told({**ASKED, "data": {}})] == [EventRefused]
    assert [type(each) for each in told({**ASKED, "data": None})] == [EventRefused]


def test_what_takes_long_to_read_is_read_only_where_that_is_allowed() -> None:
    assert told(ASKED, thorough=False) == []
    sound = {**ASKED, "data": {"texts": [], "reply_to": "shop-1"}}
    assert len(told(sound, thorough=False)) == 2


@pytest.mark.parametrize(
    "attributes",
    [
        {**ASKED, "id": "\ud800"},
        {**ASKED, "id": 7},
        {**ASKED, "id": ""},
        {"data": ASKED},
        [ASKED],
        "\udfff",
        None,
    ],
)
def test_what_does_not_say_who_asked_is_answered_to_nobody(attributes: object) -> None:
    assert told(attributes) == []


def test_a_source_that_cannot_be_written_leaves_the_client_its_answer() -> None:
    answers = told({**ASKED, "source": "\udc00"})
    assert [type(each) for each in answers] == [EncodeFailed]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b'{"id": 1' + b"0" * 9999])
def test_garbage_is_answered_to_nobody(raw: bytes) -> None:
    assert refusals(raw, "malformed", "why", source="/broker/1", thorough=True) == ()
