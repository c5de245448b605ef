"""Clients that others wrote, pointed at us: OpenAI's own, and LangChain's."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest
import pytest_asyncio
from pydantic import SecretStr

from services.api import presence
from tests.services.api.kit import Door, card, vector

if TYPE_CHECKING:
    from langchain_openai import OpenAIEmbeddings

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = ["one", "two words", "three"]


@pytest_asyncio.fixture(loop_scope="module")
async def client(door: Door) -> AsyncIterator[openai.AsyncOpenAI]:
    base = f"{door.url}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("form", [None, "float", "base64"])
async def test_openais_client_gets_the_vectors(
    client: openai.AsyncOpenAI, form: str | None
) -> None:
    options = {} if form is None else {"encoding_format": form}
    answer = await client.embeddings.create(model="auto", input=TEXTS, **options)  # type: ignore[arg-type]

    found = [row.embedding for row in answer.data]
    if form == "base64":  # who asks for it by name decodes it
        found = [np.frombuffer(base64.b64decode(str(text)), "<f4").tolist() for text in found]
    assert (np.array(found) == np.stack([vector(text) for text in TEXTS])).all()
    assert answer.model == "auto"
    assert answer.usage.total_tokens == 4


async def test_it_works_in_a_program_that_is_not_async(door: Door) -> None:
    def work() -> openai.types.CreateEmbeddingResponse:
        with openai.OpenAI(base_url=f"{door.url}/v1", api_key="any") as client:
            return client.embeddings.create(model="base", input="one")

    answer = await asyncio.to_thread(work)
    assert (np.array(answer.data[0].embedding) == vector("one")).all()


async def test_a_skill_is_a_model_and_tells_what_it_did(
    door: Door, client: openai.AsyncOpenAI
) -> None:
    door.player.cards = [card("banking", 2)]

    answer = await client.embeddings.create(
        model="banking", input="one", extra_body={"role": "query", "deadline_ms": 5000}
    )

    assert (np.array(answer.data[0].embedding) == vector("one", ("banking",))).all()
    told = answer.data[0].model_extra
    assert told is not None
    assert told["consonance"]["skills"][0]["name"] == "banking"
    assert told["consonance"]["skills"][0]["version"] == 2


async def test_models_are_listed_and_found(door: Door, client: openai.AsyncOpenAI) -> None:
    door.player.cards = [card("banking", 2), card("banking", 1, state="kept")]

    listed = [model async for model in client.models.list()]
    one = await client.models.retrieve("banking")

    assert [model.id for model in listed] == ["auto", "base", "banking"]
    assert (one.id, one.object, one.owned_by) == ("banking", "model", "consonance")
    assert one.created == 1_767_323_045


@pytest.mark.parametrize(
    ("model", "input", "error", "code"),
    [
        ("nope", "a", openai.NotFoundError, "model_not_found"),
        ("base", "", openai.BadRequestError, None),
        ("base", "overloaded", openai.RateLimitError, "rate_limit_exceeded"),
        ("base", "internal", openai.InternalServerError, "internal_error"),
    ],
)
async def test_errors_are_those_that_the_client_knows(
    client: openai.AsyncOpenAI,
    model: str,
    input: str,
    error: type[openai.APIStatusError],
    code: str | None,
) -> None:
    with pytest.raises(error) as caught:
        await client.embeddings.create(model=model, input=input, extra_body={"deadline_ms": 300})

    assert caught.value.code == code
    assert caught.value.request_id
    assert caught.value.message


async def test_a_key_is_sent_as_the_client_sends_it(door: Door) -> None:
    token = door.keys.create("app", {"read"})
    try:
        async with openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key=token) as client:
            assert (await client.embeddings.create(model="base", input="one")).data
            wrong = client.with_options(api_key="csn_wrong")
            with pytest.raises(openai.AuthenticationError):
                await wrong.embeddings.create(model="base", input="one")
    finally:
        door.keys.revoke("app")


@asynccontextmanager
async def langchain(door: Door, **options: Any) -> AsyncIterator[OpenAIEmbeddings]:
    """LangChain's embeddings over HTTP clients that are closed at the end, as it closes none."""
    from langchain_openai import OpenAIEmbeddings  # takes seconds, which not every worker need wait

    with pytest.MonkeyPatch.context() as patch, openai.DefaultHttpxClient() as plain:
        # So long that a fleet which is played, and says but once that it is there, counts as gone.
        patch.setattr(presence, "PATIENCE", math.inf)
        async with openai.DefaultAsyncHttpxClient() as concurrent:
            yield OpenAIEmbeddings(
                model="auto",
                base_url=f"{door.url}/v1",
                api_key=SecretStr("any"),
                max_retries=0,
                http_client=plain,
                http_async_client=concurrent,
                **options,
            )


async def test_langchain_gets_the_vectors(door: Door) -> None:
    async with langchain(door, check_embedding_ctx_length=False) as embeddings:
        passages = await embeddings.aembed_documents(TEXTS)
        query = await asyncio.to_thread(embeddings.embed_query, "one")

    assert (np.array(passages) == np.stack([vector(text) for text in TEXTS])).all()
    assert (np.array(query) == vector("one")).all()


class Numbers:
    """A tokenizer as LangChain expects one; the real ones are fetched from a foreign host."""

    def encode_ordinary(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]


async def test_langchain_that_counts_tokens_is_told_how_not_to(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its default sends the numbers of another model's tokens: vectors of these are nonsense."""
    monkeypatch.setattr("tiktoken.encoding_for_model", lambda _name: Numbers())
    async with langchain(door) as embeddings:
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            await embeddings.aembed_documents(["one"])
