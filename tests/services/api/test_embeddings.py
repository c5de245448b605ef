"""`POST /v1/embeddings`: vectors as they are on the bus, every name of a skill, every refusal."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.services.api.kit import DIM, Door, card, opened, vector

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_floats_are_exactly_those_of_the_bus(door: Door) -> None:
    answer = (await door.embed(["one", "two"])).json()

    assert [row["index"] for row in answer["data"]] == [0, 1]
    found = np.array([row["embedding"] for row in answer["data"]])
    assert (found == np.stack([vector("one"), vector("two")]).astype(np.float64)).all()
    assert answer["object"] == "list"
    assert {row["object"] for row in answer["data"]} == {"embedding"}


async def test_base64_holds_little_endian_floats(door: Door) -> None:
    answer = (await door.embed("one", encoding_format="base64")).json()

    raw = base64.b64decode(answer["data"][0]["embedding"])
    assert (np.frombuffer(raw, "<f4") == vector("one")).all()


@pytest.mark.parametrize(
    ("model", "route", "skills"),
    [
        ("base", "base", ()),
        ("auto", "auto", ()),
        ("banking", "named", ("banking",)),
        ("banking@3", "named", ("banking@3",)),
        ("peer/banking", "named", ("peer/banking",)),
        ("banking+legal", "named", ("banking", "legal")),
    ],
)
async def test_the_model_says_which_skills(
    door: Door, model: str, route: str, skills: tuple[str, ...]
) -> None:
    door.player.cards = [card("banking", 3), card("legal")]

    answer = (await door.embed("a b c", model)).json()

    (asked,) = door.player.asked
    assert (asked.route, asked.skills, asked.role) == (route, skills, "query")
    assert answer["model"] == model, "what was asked for, whatever it meant"
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    (row,) = answer["data"]
    assert [one["name"] for one in row["consonance"]["skills"]] == [
        name.split("@")[0].split("/")[-1] for name in skills
    ]
    reasons = {"base": "base_requested", "auto": "no_skills"}
    assert row["consonance"]["reason"] == reasons.get(route)


async def test_a_document_is_asked_for_as_one(door: Door) -> None:
    await door.embed("a passage", role="document")
    assert door.player.asked[0].role == "document"


async def test_a_long_list_travels_in_parts_and_comes_back_in_order(door: Door) -> None:
    texts = [f"text {number}" for number in range(200)]

    answer = (await door.embed(texts)).json()

    assert len(door.player.asked) > 1
    found = np.array([row["embedding"] for row in answer["data"]])
    assert (found == np.stack([vector(text) for text in texts])).all()
    assert answer["usage"]["total_tokens"] == 400


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"input": []}, "input", "at least one text"),
        ({"input": ""}, "input", "an empty text"),
        ({"input": ["a", ""]}, "input", "input[1] is an empty text"),
        ({"input": ["a"] * 201}, "input", "201 texts, at most 200"),
        ({"input": ["a", None]}, "input[1]", "input[1] must be a text, not null"),
        ({"input": 5}, "input", "input must be a text or a list, not a whole number"),
        ({"model": 5}, "model", "model must be a text"),
        ({"model": "a+b+c+d"}, "model", "4 skills, at most 3"),
        ({"encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"role": "passage"}, "role", "'query' or 'document'"),
        ({"dimensions": 0}, "dimensions", "a whole number >= 1"),
        ({"dimensions": 12}, "dimensions", f"must be {DIM}"),
        ({"deadline_ms": 0}, "deadline_ms", ">= 1"),
        ({"input": "invalid"}, None, "the router says: invalid"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
async def test_nonsense_is_refused_with_the_field_at_fault(
    door: Door, body: dict[str, Any], param: str | None, words: str
) -> None:
    answer = await door.embed(**body)

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize("missing", ["input", "model"])
async def test_what_is_missing_is_named(door: Door, missing: str) -> None:
    body = {"input": "a", "model": "base"}
    del body[missing]

    error = (await door.client.post("/v1/embeddings", json=body)).json()["error"]

    assert error["message"] == f"{missing} is missing"
    assert error["param"] == missing


@pytest.mark.parametrize("tokens", [[1, 2], [[1, 2], [3]]], ids=["one", "several"])
async def test_token_numbers_are_refused_and_it_is_said_why(door: Door, tokens: Any) -> None:
    answer = await door.embed(tokens)

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "token_arrays_unsupported"
    assert "check_embedding_ctx_length=False" in error["message"]


@pytest.mark.parametrize(
    "model",
    ["nope", "nope@2", "", "banking+", "banking+base", "auto+auto", "x" * 100_000],
    ids=lambda model: model[:20] or "empty",
)
async def test_an_unknown_model_is_not_found(door: Door, model: str) -> None:
    door.player.cards = [card("banking")]

    answer = await door.embed("a", model)

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert answer.json()["error"]["param"] == "model"
    assert len(answer.text) < 1000


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("too large", 413, "request_too_large"),
        ("internal", 500, "internal_error"),
        ("overloaded", 429, "rate_limit_exceeded"),
        ("late", 504, "deadline_exceeded"),
    ],
)
async def test_what_the_fleet_answers_has_a_status(
    door: Door, text: str, status: int, code: str
) -> None:
    answer = await door.embed(text, deadline_ms=300)

    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.headers.get("retry-after") == ("2" if status == 429 else None)


async def test_nobody_who_answers_is_the_fleets_fault_where_it_is_not_ready(door: Door) -> None:
    await door.player.beat("router", state="stopped")
    while (await door.client.get("/readyz")).json()["missing"] != ["router"]:
        pass

    answer = await door.embed("late", deadline_ms=100)
    await door.player.beat("router")

    assert answer.status_code == 503
    assert "router is not ready" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"] == "2"


async def test_a_matryoshka_is_cut_and_normalised_again(tmp_path: Path) -> None:
    async with opened(tmp_path, dimensions=(8, 12, 4096)) as door:
        cut = (await door.embed("one", dimensions=8)).json()["data"][0]["embedding"]
        whole = (await door.embed("one", dimensions=DIM)).json()["data"][0]["embedding"]
        refused = await door.embed("one", dimensions=9)

    expected = vector("one")[:8] / np.linalg.norm(vector("one")[:8])
    assert np.allclose(cut, expected, atol=1e-7)
    assert (np.array(whole) == vector("one")).all()
    assert refused.status_code == 400
    assert f"must be 8 or 12 or {DIM}" in refused.json()["error"]["message"]
