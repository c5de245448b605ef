"""Feedback and observations: in the journal before they are answered, or refused in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from bus import DiskFull, Unreachable
from schemas import FeedbackGiven, GenerationObserved
from tests.services.api.kit import Door, digest

pytestmark = pytest.mark.asyncio(loop_scope="module")

FEEDBACK: dict[str, Any] = {"query": "card?", "relevant": ["a"], "irrelevant": ["b", "c"]}
OBSERVATION: dict[str, Any] = {
    "prompt": "p", "output": "o", "reference": "r", "entropy_before": 0.6, "entropy_after": 0.2
}  # fmt: skip


async def journaled(door: Door, kind: Any) -> dict[str, Any]:
    """Every event of a type in the journal, by its id."""
    return {event.id: event.data for event in (await door.player.bus.read(kind)).events}


async def test_feedback_is_in_the_journal_when_it_is_answered(door: Door) -> None:
    served = [digest("card")]
    body = {**FEEDBACK, "domain": "banking", "served": served}

    answer = await door.client.post("/v1/feedback", json=body)

    assert answer.status_code == 202
    found = (await journaled(door, FeedbackGiven))[answer.json()["id"]]
    assert found == FeedbackGiven(
        query="card?",
        relevant=("a",),
        irrelevant=("b", "c"),
        domain="banking",
        served=tuple(served),
    )


async def test_what_served_is_empty_absent_or_told(door: Door) -> None:
    """Empty means the base model, absent that the router is to be asked: not the same."""
    ids = {}
    for name, more in {"absent": {}, "null": {"served": None}, "base": {"served": []}}.items():
        answer = await door.client.post("/v1/feedback", json={**FEEDBACK, **more})
        ids[name] = answer.json()["id"]

    found = await journaled(door, FeedbackGiven)

    assert found[ids["absent"]].served is None
    assert found[ids["null"]].served is None
    assert found[ids["base"]].served == ()


async def test_an_observation_is_in_the_journal(door: Door) -> None:
    answer = await door.client.post("/v1/observations", json=OBSERVATION)

    assert answer.status_code == 202
    found = (await journaled(door, GenerationObserved))[answer.json()["id"]]
    assert found == GenerationObserved(**OBSERVATION)


async def test_sent_again_with_its_key_it_is_kept_once(door: Door) -> None:
    headers = {"Idempotency-Key": "order 66"}
    before = len(await journaled(door, FeedbackGiven))

    answers = [
        await door.client.post("/v1/feedback", json=FEEDBACK, headers=headers) for _ in range(2)
    ]
    other = await door.client.post(
        "/v1/feedback", json=FEEDBACK, headers={"Idempotency-Key": "order 67"}
    )

    assert [answer.status_code for answer in (*answers, other)] == [202] * 3
    assert answers[0].json() == answers[1].json() != other.json()
    assert len(await journaled(door, FeedbackGiven)) == before + 2


async def test_nothing_is_lost_where_a_key_is_used_for_something_else(door: Door) -> None:
    """It was answered 202, so it is in the journal."""
    headers = {"Idempotency-Key": "1"}
    given = [{**FEEDBACK, "query": query} for query in ("one", "two", "one")]

    answers = [
        await door.client.post("/v1/feedback", json=feedback, headers=headers) for feedback in given
    ]

    ids = [answer.json()["id"] for answer in answers]
    kept = await journaled(door, FeedbackGiven)
    assert [kept[one].query for one in ids] == ["one", "two", "one"]
    assert ids[0] == ids[2]


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"query": ""}, "query", "length >= 1"),
        ({"query": 3}, "query", "must be a text, not a whole number"),
        ({"relevant": [], "irrelevant": []}, "relevant", "one must name a passage"),
        ({"relevant": [""]}, "relevant[0]", "length >= 1"),
        ({"relevant": "a"}, "relevant", "must be a list, not a text"),
        ({"relevant": ["b"]}, "irrelevant", "'b' is both relevant and irrelevant"),
        ({"domain": "Two Words"}, "domain", "like '^[a-z0-9]"),
        ({"served": ["banking"]}, "served[0]", "like '^sha256:"),
        ({"relevent": ["a"]}, "relevent", "is no field of this request"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else None,
)
async def test_feedback_that_makes_no_sense_is_refused(
    door: Door, change: dict[str, Any], param: str, words: str
) -> None:
    answer = await door.client.post("/v1/feedback", json={**FEEDBACK, **change})

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the body is empty"),
        (b"{", "no JSON"),
        (b"[]", "the body must be an object, not a list"),
        (b'"x"', "the body must be an object, not a text"),
        (b"\xff\xfe", "no JSON"),
        (b'{"query": "\\ud83d", "relevant": ["a"]}', "no JSON"),
        (b"[" * 100_000, "must be an object"),
        (b'{"model":"base","input":"a","user":' + b"[" * 100_000, "must be a text"),
        (b'{"model":"base","input":"a","more":' + b"[" * 100_000, "no JSON"),
        (b'{"prompt":"p","output":"o","reference":"r","entropy_before":1e999}', "out of range"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else None,
)
async def test_a_body_that_is_none_is_refused(door: Door, content: bytes, words: str) -> None:
    paths = {b"prompt": "/v1/observations", b"model": "/v1/embeddings"}
    path = next((paths[word] for word in paths if word in content), "/v1/feedback")
    headers = {"Content-Type": "application/json"}
    answer = await door.client.post(path, content=content, headers=headers)

    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


async def test_an_event_too_large_for_the_journal_is_refused(door: Door) -> None:
    answer = await door.client.post("/v1/feedback", json={**FEEDBACK, "relevant": ["x" * 2**20]})

    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("key", ["", "x" * 256], ids=["empty", "long"])
async def test_an_idempotency_key_has_bounds(door: Door, key: str) -> None:
    headers = {"Idempotency-Key": key}
    answer = await door.client.post("/v1/feedback", json=FEEDBACK, headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "error", [Unreachable("no answer within 30 s"), DiskFull("no room")], ids=["away", "full"]
)
async def test_what_is_not_journaled_is_never_said_to_be(
    door: Door, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def publish(*_: object) -> None:
        raise error

    monkeypatch.setattr(door.service.bus, "publish", publish)

    answer = await door.client.post("/v1/feedback", json=FEEDBACK)

    assert answer.status_code == 503
    assert str(error) in answer.json()["error"]["message"]
    assert answer.headers["retry-after"] == "2"
