"""`POST /v1/embeddings`: as OpenAI's, with the skills that made each vector."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from bus import RequestTimeout
from schemas import AppliedSkill, CompletedRow
from services.api.answers import answer, body_of
from services.api.context import ApiContext, context_of
from services.api.errors import (
    ApiError,
    BodyTooLarge,
    DeadlineExceeded,
    FleetAway,
    InternalFailure,
    InvalidRequest,
    NotFound,
    Overloaded,
)
from services.api.operation import Operation
from services.errors import EncodeFailedError
from services.runtime.client import Encoded, Route

__all__ = ["OPERATIONS", "EmbeddingRequest", "EmbeddingResponse", "embed"]

MOST_STACKED: Final = 3

LONGEST_NAME: Final = 160
"""Characters; a peer, a name and a version have fewer."""

_TOKENS: Final = (
    "input holds token numbers: they mean something else to every model, and this one would give "
    "vectors of other texts; send the texts themselves (in LangChain: "
    "OpenAIEmbeddings(check_embedding_ctx_length=False))"
)


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be embedded, and by which skills."""

    input: Annotated[
        str | tuple[str, ...],
        Meta(description="One text or a list of them; none empty. Token numbers are refused."),
    ]
    model: Annotated[
        str,
        Meta(
            description="`auto` (the fleet chooses skills by meaning), `base` (no skill), or a "
            "skill: `name`, `name@3`, `sha256:…` or 12 of its hex digits, `peer/name`; up to "
            "three joined by `+` are stacked.",
            examples=["auto", "base", "banking", "banking@3", "banking+legal"],
        ),
    ]
    encoding_format: Annotated[
        Literal["float", "base64"],
        Meta(description="`base64`: of the little-endian float32 values."),
    ] = "float"
    dimensions: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Fewer values, where the model was trained for it (Matryoshka)."),
    ] = None
    user: Annotated[str | None, Meta(description="Accepted and not used.")] = None
    role: Annotated[
        Literal["query", "document"],
        Meta(description="What the texts are: skills bend queries, stored vectors stay valid."),
    ] = "query"
    deadline_ms: Annotated[
        Annotated[int, Meta(ge=1, le=3_600_000)] | None,
        Meta(
            description="How long the whole answer may take, in ms; not set: 30 s for each of the "
            "parts of at most 64 texts that a long list travels in."
        ),
    ] = None


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """How a vector came about."""

    skills: tuple[AppliedSkill, ...]
    reason: str | None
    """Why no skill was applied, where none was."""


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: tuple[float, ...] | str
    """The values, or base64 of them as little-endian float32."""
    consonance: Provenance


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens, as the model counts them."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: tuple[Embedding, ...]
    model: str
    """What was asked for."""
    usage: Usage


class _Tokens(msgspec.Struct, frozen=True):
    input: tuple[int | tuple[int, ...], ...]


async def embed(request: Request) -> Response:
    """Encode over the bus, answer as OpenAI does."""
    context = context_of(request)
    asked = await _asked(request)
    texts = _texts(asked, context.settings.api.max_inputs)
    route, skills = _route(asked.model)
    context.dimensions.check(asked.dimensions)
    encoded = await _encode(context, asked, texts, route, skills)
    request.state.model = asked.model  # known to the fleet, else there were no vectors
    context.dimensions.learn(encoded.vectors.shape[1])
    context.dimensions.check(asked.dimensions)
    vectors = cut(encoded.vectors, asked.dimensions)
    return answer(_response(asked, vectors, encoded))


def cut(vectors: NDArray[np.float32], size: int | None) -> NDArray[np.float32]:
    """The first `size` values of each row (rows, dim), normalised again; all of them for None."""
    if size is None or size == vectors.shape[1]:
        return vectors
    head = vectors[:, :size]
    norms = np.linalg.norm(head, axis=1, keepdims=True)
    return (head / np.where(norms > 0, norms, 1)).astype(np.float32)


async def _asked(request: Request) -> EmbeddingRequest:
    try:
        return await body_of(request, EmbeddingRequest)
    except InvalidRequest as error:
        try:
            numbers = msgspec.json.decode(await request.body(), type=_Tokens).input
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise error from None
        if not numbers:
            raise error from None
        raise InvalidRequest(_TOKENS, param="input", code="token_arrays_unsupported") from error


def _texts(asked: EmbeddingRequest, most: int) -> tuple[str, ...]:
    texts = (asked.input,) if isinstance(asked.input, str) else asked.input
    if not texts:
        raise InvalidRequest("input is empty: it must hold at least one text", param="input")
    if len(texts) > most:
        raise InvalidRequest(
            f"input holds {len(texts)} texts, at most {most} are taken: split it", param="input"
        )
    for place, text in enumerate(texts):
        if not text:
            which = "input" if isinstance(asked.input, str) else f"input[{place}]"
            raise InvalidRequest(f"{which} is an empty text", param="input")
    return texts


def _route(model: str) -> tuple[Route, tuple[str, ...]]:
    if model == "base":
        return "base", ()
    if model == "auto":
        return "auto", ()
    skills = tuple(model.split("+"))
    if len(skills) > MOST_STACKED:
        raise InvalidRequest(
            f"model names {len(skills)} skills, at most {MOST_STACKED} are stacked", param="model"
        )
    if any(name in ("", "auto", "base") or len(name) > LONGEST_NAME for name in skills):
        raise NotFound(
            f"the model {model[:LONGEST_NAME]!r} does not exist: it is base, auto, or skills "
            "joined by +",
            param="model",
            code="model_not_found",
        )
    return "named", skills


async def _encode(
    context: ApiContext,
    asked: EmbeddingRequest,
    texts: tuple[str, ...],
    route: Route,
    skills: tuple[str, ...],
) -> Encoded:
    gone = context.presence.gone()
    if gone:
        raise FleetAway(f"the fleet is not there: nothing is heard of {' and '.join(gone)}")
    whole = None if asked.deadline_ms is None else asked.deadline_ms / 1000
    try:
        async with asyncio.timeout(whole):
            return await context.client.encode(
                texts, role=asked.role, route=route, skills=skills, deadline_ms=asked.deadline_ms
            )
    except EncodeFailedError as error:
        raise _translated(error) from error
    except (RequestTimeout, TimeoutError) as error:
        missing = context.presence.unready()
        if missing:
            raise FleetAway(f"nobody answered: {' and '.join(missing)} is not ready") from error
        raise DeadlineExceeded("the texts were not encoded within the deadline") from error


def _translated(error: EncodeFailedError) -> ApiError:
    """An `encode.failed` as a status."""
    words = str(error)
    if error.code == "unknown_skill":
        return NotFound(words, param="model", code="model_not_found")
    if error.code == "overloaded":
        return Overloaded(words, retry_after=(error.retry_after_ms or 1000) / 1000)
    if error.code == "deadline":
        return DeadlineExceeded(words)
    if error.code == "too_large":
        return BodyTooLarge(words, param="input")
    if error.code == "invalid":
        return InvalidRequest(words)
    return InternalFailure(words)


def _response(
    asked: EmbeddingRequest, vectors: NDArray[np.float32], encoded: Encoded
) -> EmbeddingResponse:
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    values: list[Any]
    if asked.encoding_format == "base64":
        values = [base64.b64encode(row).decode() for row in rows]
    else:
        values = rows.tolist()
    return EmbeddingResponse(
        data=tuple(
            Embedding(index=index, embedding=value, consonance=_provenance(row))
            for index, (value, row) in enumerate(zip(values, encoded.rows, strict=True))
        ),
        model=asked.model,
        usage=Usage(prompt_tokens=encoded.tokens, total_tokens=encoded.tokens),
    )


def _provenance(row: CompletedRow) -> Provenance:
    return Provenance(skills=row.skills, reason=row.reason)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/v1/embeddings",
        embed,
        "read",
        "Embed texts",
        "As OpenAI's, with one more field on each vector: which skills made it, or why none did. "
        "Skills bend queries only, unless a card says otherwise: embed passages with "
        '`"role": "document"` (or `"model": "base"`), and they stay valid whatever is learned.',
        takes=EmbeddingRequest,
        gives=EmbeddingResponse,
        tag="embeddings",
    ),
)
