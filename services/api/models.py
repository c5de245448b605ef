"""`GET /v1/models`: what `model` may be in an embeddings request, as OpenAI lists its own."""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lora.authors import moment
from schemas import ListedCard
from services.api.answers import answer
from services.api.catalogue import SERVING, Catalogue
from services.api.context import context_of
from services.api.errors import NotFound
from services.api.operation import Operation
from services.api.skills import Skill, skill_of

__all__ = ["OPERATIONS", "Model"]

OWNER = "consonance"
"""Of what was made here, and of the base model."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an embeddings request may name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Seconds since the epoch; 0 where nobody knows."""
    owned_by: str
    """`consonance`, or the peer that a skill came from."""
    consonance: Skill | None = None
    """The skill behind it, with its metrics; null of `auto`, `base` and what only a peer has."""


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an embeddings request may name."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]


_GENERAL = tuple(Model(id=name, created=0, owned_by=OWNER) for name in ("auto", "base"))


async def list_models(request: Request) -> Response:
    """`auto`, `base`, each skill that serves under its name, and what only a peer has."""
    context = context_of(request)
    cards = await Catalogue.of(context.client)
    skills = tuple(_model(card, card.name) for card in cards.foremost())
    here = {card.digest for card in cards if card.state in SERVING}
    offers = dict.fromkeys(
        (f"{peer.peer}/{offer.name}", peer.peer)
        for peer in context.view.snapshot().peers
        for offer in peer.skills
        if offer.digest not in here
    )
    remote = tuple(Model(id=name, created=0, owned_by=peer) for name, peer in offers)
    return answer(ModelList(data=(*_GENERAL, *skills, *remote)))


async def show_model(request: Request) -> Response:
    """One model by any name that `model` may have, but for stacked ones."""
    name = request.path_params["model"]
    for model in _GENERAL:
        if model.id == name:
            return answer(model)
    cards = await Catalogue.of(context_of(request).client)
    card = cards.resolve(name, param="model")
    if card.state not in SERVING:
        raise NotFound(f"the skill {name!r} is {card.state}", param="model", code="model_not_found")
    return answer(_model(card, name))


def _model(card: ListedCard, name: str) -> Model:
    created = moment(card.created)
    return Model(
        id=name,
        created=int(created) if created > 0 else 0,
        owned_by=card.peer or OWNER,
        consonance=skill_of(card),
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/v1/models",
        list_models,
        "read",
        "List models",
        "`auto`, `base`, every skill that serves, with what the gate measured, and as `peer/name` "
        "those that a peer offers. Older versions that can be named stand in `/v1/skills`.",
        gives=ModelList,
        tag="embeddings",
    ),
    Operation(
        "GET",
        "/v1/models/{model:path}",
        show_model,
        "read",
        "Show a model",
        gives=Model,
        tag="embeddings",
    ),
)
