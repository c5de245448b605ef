"""The cards that a fleet knows, by any of their names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from schemas import ListedCard
from services.api.catalogue import SERVING, Catalogue
from services.api.errors import NotFound
from services.command.errors import InputRefused
from services.command.place import Place, connected
from services.runtime.client import FleetClient

__all__ = ["SERVING", "client_at", "facts_of", "found", "listed", "resolved"]


@asynccontextmanager
async def client_at(at: Place) -> AsyncIterator[FleetClient]:
    """A client of the fleet there; raises as `connected` does."""
    async with connected(at) as bus:
        yield FleetClient(bus)


async def found(client: FleetClient, name: str) -> ListedCard:
    """The card that a name means now; raises `InputRefused`, `bus.RequestTimeout`."""
    return resolved(await listed(client), name)


async def listed(client: FleetClient) -> Catalogue:
    """As the manager lists them now; raises `bus.RequestTimeout`."""
    return await Catalogue.of(client)


def resolved(cards: Catalogue, name: str) -> ListedCard:
    """The card that `name`, `name@3`, a digest, 12 of its digits or `peer/name` means.

    Raises `InputRefused`.
    """
    try:
        return cards.resolve(name)
    except NotFound as error:
        hint = "`consonance skills list` lists all"
        raise InputRefused(str(error).replace("GET /v1/skills lists all", hint)) from error


def facts_of(card: ListedCard) -> dict[str, Any]:
    """What people and programs want to know: no prototypes, which are large and for routers."""
    facts = msgspec.to_builtins(card)
    for name in ("prototypes", "boundary"):
        facts.pop(name, None)
    # What is at its default is left out on the wire; here every field is there.
    return {
        "pinned": card.pinned,
        "peer": card.peer,
        "signer": card.signer,
        "routed": card.threshold is not None,
        **facts,
    }
