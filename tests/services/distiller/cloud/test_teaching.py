"""CloudDistiller against a server: what it asks, what it keeps, and how it fails."""

import asyncio
import json
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.distiller.cloud.errors import TeacherSettingsError
from services.distiller.teacher import Asked, Material, Pair
from tests.services.distiller.cloud.kit import (
    MATERIAL,
    PASSAGES,
    QUESTIONS,
    honest,
    serving,
    settings,
    teaching,
)
from tests.standin import faults
from tests.standin.server import DIM, embed

NOTHING: dict[str, Any] = {
    "questions_per_passage": 0,
    "paraphrases_per_query": 0,
    "grade_candidates": 0,
    "answers": False,
}
"""No kind of question is asked."""


def many(count: int) -> Material:
    """So many passages that nothing else is asked about."""
    return Material("birds", (), tuple(f"passage {number}" for number in range(count)))


def echo(document: dict) -> dict:
    """Two questions to each passage."""
    texts = [[f"{what} {it['passage']}" for what in ("why", "how")] for it in document["items"]]
    return {"items": [{"id": at, "texts": found} for at, found in enumerate(texts)]}


async def test_every_kind_of_knowledge_comes_back_as_pairs(tmp_path: Path) -> None:
    with serving() as server:
        async with teaching(server, tmp_path, hard_negatives=1) as teacher:
            found = await teacher.teach(MATERIAL)

    assert (found.reason, found.again, found.left) == (None, None, frozenset())
    kinds = Counter(pair.kind for pair in found.pairs)
    assert kinds == {
        "question": 12,
        "paraphrase": 4,
        "grade": 3,
        "answer": 1,
        "hard_negative": 2,
    }
    for pair in found.pairs:
        if pair.kind == "question":
            assert pair.query in QUESTIONS[pair.passage]
        assert (pair.origin is None) == (pair.kind == "question")
    assert Pair("do cranes fast", "crane food", 1.0, "answer", "do cranes fast") in found.pairs
    assert Pair("heron meals", "crane food", 0.0, "grade", "heron meals") in found.pairs


async def test_several_passages_share_a_request_and_the_last_message_is_the_document(
    tmp_path: Path,
) -> None:
    with serving(echo) as server:
        async with teaching(server, tmp_path, questions_per_passage=2) as teacher:
            found = await teacher.teach(many(40))

    assert len(found.pairs) == 80
    assert server.counts["task:questions"] == 3
    documents = [json.loads(body["messages"][-1]["content"]) for body in server.bodies]
    assert {(document["task"], document["count"]) for document in documents} == {("questions", 2)}
    # Requests are sent at once: which one arrives first is anybody's guess.
    assert {"id": 1, "passage": "passage 1"} in [document["items"][1] for document in documents]


async def test_what_is_off_is_not_asked(tmp_path: Path) -> None:
    with serving() as server:
        async with teaching(server, tmp_path, **NOTHING) as teacher:
            found = await teacher.teach(MATERIAL)

    assert found.pairs == ()
    assert not server.counts


async def test_what_one_order_may_not_ask_is_left_to_the_next(tmp_path: Path) -> None:
    with serving() as server:
        async with teaching(server, tmp_path, passages_per_order=1, queries_per_order=2) as teacher:
            found = await teacher.teach(MATERIAL)

    assert found.left == {*PASSAGES[1:], "do cranes fast"}
    assert found.again is None
    assert {pair.passage for pair in found.pairs if pair.kind == "question"} == {PASSAGES[0]}


async def test_asking_the_same_again_costs_nothing(tmp_path: Path) -> None:
    """Also for another process: it may have been killed before the answer was used."""
    with serving() as server:
        async with teaching(server, tmp_path, embedding_model="embedder") as teacher:
            first = await teacher.teach(MATERIAL)
            seen = sum(server.counts.values())
        async with teaching(server, tmp_path, embedding_model="embedder") as teacher:
            second = await teacher.teach(MATERIAL)

    assert second.pairs == first.pairs
    assert sum(server.counts.values()) == seen
    for text, row in first.vectors.items():
        np.testing.assert_array_equal(second.vectors[text], row)


async def test_killed_in_mid_order_only_what_is_missing_is_asked(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.script(*[faults.slow(0.0)] * 2, faults.hang)
        async with teaching(server, tmp_path, concurrency=1) as teacher:
            task = asyncio.create_task(teacher.teach(many(40)))
            async with asyncio.timeout(20):
                while server.counts["/v1/chat/completions"] < 3:
                    await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        async with teaching(server, tmp_path) as teacher:
            found = await teacher.teach(many(40))

    assert len(found.pairs) == 80
    assert server.counts["task:questions"] == 4


@pytest.mark.parametrize("encoding", ["base64", "float"])
async def test_vectors_are_those_of_the_texts_whatever_their_order(
    tmp_path: Path, encoding: str
) -> None:
    with serving() as server:
        if encoding == "float":
            server.script(faults.status(400, "unknown parameter: encoding_format"))
        async with teaching(server, tmp_path, embedding_model="embedder", **NOTHING) as teacher:
            found = await teacher.teach(MATERIAL)

    assert set(found.vectors) == {*(q.text for q in MATERIAL.queries), *PASSAGES}
    for text, row in found.vectors.items():
        np.testing.assert_allclose(row, embed(text), atol=1e-6)
    assert "embedder" in found.space
    assert server.bodies[-1]["encoding_format"] == encoding


async def test_many_texts_are_embedded_in_several_requests(tmp_path: Path) -> None:
    texts = tuple(f"{number} " + "long " * 2000 for number in range(100))
    with serving() as server:
        async with teaching(
            server, tmp_path, embedding_model="embedder", questions_per_passage=0
        ) as teacher:
            found = await teacher.teach(Material("birds", (), texts))

    assert found.reason is None
    assert len(found.vectors) == 100
    assert {row.shape for row in found.vectors.values()} == {(DIM,)}
    assert server.counts["/v1/embeddings"] == 3


async def test_never_more_requests_at_once_than_allowed(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.always = faults.slow(0.05)
        async with teaching(server, tmp_path, concurrency=3, questions_per_passage=64) as teacher:
            await asyncio.gather(*(teacher.teach(many(count)) for count in (6, 7)))

    assert server.at_once == 3


async def test_while_a_server_is_slow_the_loop_goes_on(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.always = faults.slow(0.3)
        async with teaching(server, tmp_path) as teacher:
            task = asyncio.create_task(teacher.teach(many(3)))
            turns = 0
            while not task.done():
                await asyncio.sleep(0.001)
                turns += 1

    assert turns > 20


@pytest.mark.parametrize(
    "fault",
    [
        faults.status(429, retry_after="0.01"),
        faults.status(500),
        faults.status(503, retry_after="0"),
        faults.garbage,
        faults.wrong_schema,
        faults.content("Sorry, I have no idea"),
        faults.content('{"items": [{"id": 7, "texts": ["whom?"]}]}'),
        faults.content(""),
        faults.no_unicode,
    ],
)
async def test_what_fails_in_passing_is_asked_again(tmp_path: Path, fault: faults.Fault) -> None:
    with serving(echo) as server:
        server.script(fault)
        async with teaching(server, tmp_path) as teacher:
            found = await teacher.teach(many(2))

    assert len(found.pairs) == 4
    assert found.reason is None
    assert server.counts["/v1/chat/completions"] == 2


async def test_a_late_answer_is_asked_for_again(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.script(faults.hang)
        async with teaching(server, tmp_path, timeout=0.5, retries=20) as teacher:
            found = await teacher.teach(many(2))

    assert len(found.pairs) == 4


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.always = faults.hang
        async with teaching(server, tmp_path, timeout=0.2, retries=1) as teacher:
            found = await teacher.teach(many(2))

    assert found.reason == "the teacher did not answer within 0.2 s"
    assert found.again is not None


@pytest.mark.parametrize(
    ("fault", "says", "attempts", "waits"),
    [
        (faults.status(500, "boom"), "the teacher failed (500): boom", 3, True),
        (faults.status(429), "rate limit", 3, True),
        (faults.status(429, retry_after="7200"), "rate limit", 1, True),
        (faults.status(429, error="insufficient_quota"), "no credit left", 1, True),
        (faults.status(401), "refused the API key (401)", 1, False),
        (faults.status(403), "refused the API key (403)", 1, False),
        (faults.status(404), "knows no model 'teacher'", 1, False),
    ],
)
async def test_where_nothing_can_be_asked_the_order_ends_with_a_reason(
    tmp_path: Path, fault: faults.Fault, says: str, attempts: int, waits: bool
) -> None:
    with serving(echo) as server:
        server.always = fault
        async with teaching(server, tmp_path, concurrency=1) as teacher:
            before = time.time()
            found = await teacher.teach(many(64))

    assert says in (found.reason or "")
    assert found.pairs == ()
    assert found.left == set(many(64).passages)
    assert (found.again is not None) == waits
    assert found.again is None or found.again > before + 50
    assert server.counts["/v1/chat/completions"] == attempts


async def test_as_long_as_the_server_asks_for_nobody_comes_back(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.always = faults.status(429, retry_after="7200")
        async with teaching(server, tmp_path, clock=lambda: 1e9) as teacher:
            found = await teacher.teach(many(1))

    assert found.again == pytest.approx(1e9 + 7200)


async def test_nobody_there_costs_nothing(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        async with teaching(url, tmp_path) as teacher:
            found = await teacher.teach(MATERIAL)
            spent = teacher.budget.spent()

    assert found.reason == "the teacher cannot be reached"
    assert found.again is not None
    assert (spent.requests, spent.tokens) == (0, 0)


async def test_what_was_answered_before_it_broke_off_is_kept(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.script(faults.slow(0))
        server.always = faults.status(401)
        async with teaching(server, tmp_path, concurrency=1) as teacher:
            broken = await teacher.teach(many(40))
            assert len(broken.pairs) == 24
            server.always = None
            whole = await teacher.teach(many(40))

    assert len(whole.pairs) == 80
    assert server.counts["task:questions"] == 4


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (faults.refusal, "the model refused to answer"),
        (faults.content("", finish="content_filter"), "the model refused to answer"),
        (faults.wrong_schema, "not of the form"),
        (faults.garbage, "does not speak the API"),
        (faults.truncated, "the answer was cut off"),
        (faults.status(400, "odd"), "rejected the request (400): odd"),
        (faults.status(400, "odd \ud800"), "rejected the request (400): odd ?"),
    ],
)
async def test_a_part_that_stays_without_an_answer_is_left_out_and_others_are_kept(
    tmp_path: Path, fault: faults.Fault, says: str
) -> None:
    """Of two requests the one with the wren in it never gets an answer."""
    with serving() as server:
        server.always = faults.only("wren", fault)
        async with teaching(server, tmp_path) as teacher:
            query = Asked("heron meals", ("heron food",))
            found = await teacher.teach(Material("birds", (query,), ("wren food",)))

    assert says in (found.reason or "")
    assert (found.again, found.left) == (None, frozenset())
    assert {pair.kind for pair in found.pairs} == {"paraphrase"}


@pytest.mark.parametrize("fault", [faults.truncated, faults.refusal])
async def test_what_is_too_much_at_once_is_asked_in_halves(
    tmp_path: Path, fault: faults.Fault
) -> None:
    with serving(echo) as server:
        server.script(fault, fault)
        async with teaching(server, tmp_path) as teacher:
            found = await teacher.teach(many(8))

    assert found.reason is None
    assert {pair.passage for pair in found.pairs} == set(many(8).passages)
    assert [len(document["items"]) for document in server.documents] == [2, 2, 4]


async def test_items_that_an_answer_passes_over_are_counted(tmp_path: Path) -> None:
    def lazy(document: dict) -> dict:
        return {"items": echo(document)["items"][:3]}

    with serving(lazy) as server:
        async with teaching(server, tmp_path) as teacher:
            found = await teacher.teach(many(5))

    assert len(found.pairs) == 6
    assert found.reason == "2 items were passed over"


async def test_what_models_add_around_and_inside_their_answer_does_no_harm(tmp_path: Path) -> None:
    text = (
        'Here you are:\n```json\n{"items": [{"id": 0, "note": "!", "texts": '
        '[" a ", "a", "", "b", "c"]}, {"id": 9, "texts": ["x"]}]}\n```'
    )
    with serving(echo) as server:
        server.script(faults.content(text))
        async with teaching(server, tmp_path, questions_per_passage=2) as teacher:
            found = await teacher.teach(many(1))

    assert [pair.query for pair in found.pairs] == ["a", "b"]


@pytest.mark.parametrize(
    ("complaint", "then"),
    [
        ("Unsupported parameter: 'max_tokens'", None),
        ("response_format json_schema is not supported", "json_object"),
    ],
)
async def test_a_server_that_speaks_another_dialect_is_understood(
    tmp_path: Path, complaint: str, then: str | None
) -> None:
    text = json.dumps(echo({"items": [{"passage": "p"}]}))
    with serving(echo) as server:
        server.script(faults.status(400, complaint), faults.content(text))
        async with teaching(server, tmp_path) as teacher:
            found = await teacher.teach(many(1))

    assert len(found.pairs) == 2
    assert server.bodies[-1]["response_format"]["type"] == (then or "json_schema")


async def test_vectors_that_make_no_sense_are_none_and_pairs_stay(tmp_path: Path) -> None:
    def nonsense(text: str) -> np.ndarray:
        return embed(text) * np.float32("nan")

    with serving(embed=nonsense) as server:
        async with teaching(server, tmp_path, embedding_model="embedder") as teacher:
            found = await teacher.teach(MATERIAL)

    assert found.vectors == {}
    assert found.pairs
    assert "not finite" in (found.reason or "")


async def test_an_unknown_embedding_model_is_named(tmp_path: Path) -> None:
    with serving() as server:
        async with teaching(server, tmp_path, embedding_model="nobody") as teacher:
            found = await teacher.teach(MATERIAL)

    assert found.pairs
    assert "'nobody'" in (found.reason or "")
    assert (found.left, found.again) == (frozenset(), None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": None}, "teacher.model"),
        ({"base_url": "ftp://localhost"}, "teacher.base_url"),
        ({"base_url": "https://me:word@localhost"}, "teacher.base_url"),
    ],
)
async def test_settings_that_do_not_suffice_are_refused_at_once(
    tmp_path: Path, changes: dict, says: str
) -> None:
    with pytest.raises(TeacherSettingsError, match=says):
        async with teaching(changes.pop("base_url", "http://localhost/v1"), tmp_path, **changes):
            pass


def test_honest_answers_are_the_same_each_time() -> None:
    document = {"task": "questions", "count": 2, "items": [{"id": 0, "passage": "wren food"}]}
    assert honest()(document) == honest()(document)
    assert settings("http://localhost/v1").model == "teacher"
