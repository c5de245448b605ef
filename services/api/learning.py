"""`POST /v1/feedback` and `/v1/observations`: on the disk before they are answered."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final
from uuid import uuid4

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from schemas import (
    Digest,
    Event,
    FeedbackGiven,
    GenerationObserved,
    Name,
    Payload,
    derived_id,
)
from services.api.answers import answer, body_of
from services.api.context import context_of
from services.api.errors import InvalidRequest
from services.api.operation import Operation, Query
from services.runtime.tracing import here

__all__ = ["OPERATIONS", "Accepted", "FeedbackRequest", "ObservationRequest"]

IDEMPOTENCY: Final = "Idempotency-Key"
_LONGEST_KEY: Final = 255

Text = Annotated[str, Meta(min_length=1)]
Passages = tuple[Text, ...]


class FeedbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which passages were relevant to a query, and which were not."""

    query: Annotated[str, Meta(min_length=1, description="As it was asked.")]
    relevant: Annotated[Passages, Meta(description="Passages that people found relevant.")] = ()
    irrelevant: Annotated[Passages, Meta(description="Passages shown and found irrelevant.")] = ()
    domain: Annotated[
        Name | None,
        Meta(description="What it is about, which is also the skill's name; not set: as judged."),
    ] = None
    served: Annotated[
        tuple[Digest, ...] | None,
        Meta(
            description="Digests of the skills that made the query's vector, as the embedding told "
            "them; empty: none did; not set: as the fleet would route the query now."
        ),
    ] = None


class ObservationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A language model's output beside its reference."""

    prompt: Text
    output: str
    reference: Text
    entropy_before: float
    entropy_after: float
    domain: Name | None = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """It is journaled: nothing loses it any more."""

    id: str
    """The event's id, by which `feedback.judged` and `dissonance.detected` name it."""


async def give_feedback(request: Request) -> Response:
    """Journal one piece of feedback."""
    given = await body_of(request, FeedbackRequest)
    if not given.relevant and not given.irrelevant:
        raise InvalidRequest(
            "relevant and irrelevant are both empty: one must name a passage", param="relevant"
        )
    both = set(given.relevant) & set(given.irrelevant)
    if both:
        raise InvalidRequest(
            f"the passage {min(both)[:80]!r} is both relevant and irrelevant", param="irrelevant"
        )
    data = FeedbackGiven(
        query=given.query,
        relevant=given.relevant,
        irrelevant=given.irrelevant,
        domain=given.domain,
        served=given.served,
    )
    return await _journaled(request, data)


async def give_observation(request: Request) -> Response:
    """Journal what a tool saw a language model do."""
    seen = await body_of(request, ObservationRequest)
    return await _journaled(request, GenerationObserved(**msgspec.structs.asdict(seen)))


async def _journaled(request: Request, data: Payload) -> Response:
    context = context_of(request)
    origin = here()
    event: Event[Any] = Event(
        data=data,
        source=context.bus.source,
        id=_id(request, context.bus.source, data),
        correlation_id=origin.correlation_id,
        traceparent=origin.traceparent,
    )
    await context.bus.publish(event)
    return answer(Accepted(id=event.id), status=202)


def _id(request: Request, source: str, data: Payload) -> str:
    """A new id, or always the same one of an idempotency key: the journal keeps it once."""
    key = request.headers.get(IDEMPOTENCY)
    if key is None:
        return str(uuid4())
    if not 0 < len(key) <= _LONGEST_KEY:
        raise InvalidRequest(f"{IDEMPOTENCY} must have 1 to {_LONGEST_KEY} characters")
    # What was sent is part of it: nothing is lost where a key is used for something else again.
    said = hashlib.sha256(msgspec.json.encode(data)).hexdigest()
    return derived_id(source, f"{key}\n{said}", data.type)


_KEY: Final = Query(
    IDEMPOTENCY,
    "Any text of the caller's own: what is sent again with the same one is kept once.",
    place="header",
)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/v1/feedback",
        give_feedback,
        "feedback",
        "Give feedback",
        "Tell which passages were relevant to a query. Where the fleet's answer clashes with it, "
        "it becomes something to learn from. The answer comes once it is on the disk.",
        takes=FeedbackRequest,
        gives=Accepted,
        status=202,
        query=(_KEY,),
        tag="learning",
        finishes=True,
    ),
    Operation(
        "POST",
        "/v1/observations",
        give_observation,
        "feedback",
        "Report a language model's output",
        "For a tool that watches a language model: what it put out, what was right, and how sure "
        "it was before and after (normalised entropy, 0 to 1).",
        takes=ObservationRequest,
        gives=Accepted,
        status=202,
        query=(_KEY,),
        tag="learning",
        finishes=True,
    ),
)
