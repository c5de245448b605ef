"""Puts a card into the service of a running fleet: into its store, told of, judged, installed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from lora.card import LoRACard
from lora.store import CardStore
from schemas import Event, ListedCard, SkillCard, SkillInstalled, SkillPublished, SkillRejected
from services.command.errors import Failed, InputRefused
from services.runtime.cards import describe
from services.runtime.client import FleetClient
from services.runtime.settings import StoreSettings
from services.runtime.shared import card_store
from services.runtime.state import StateFolder

__all__ = ["numbered", "publish", "store_of"]

ATTEMPTS: Final = 3
"""So often a number is looked for that the factory has not given away meanwhile."""

TAKEN: Final = "is another card already"


def store_of(state: Path, settings: StoreSettings) -> CardStore:
    """The store of the fleet with this state folder; raises `InputRefused` where there is none."""
    folder = state / "cards"
    if not folder.is_dir():
        raise InputRefused(
            f"{state} holds no cards: a card is published on the machine where the fleet's state "
            "folder is; --state names it"
        )
    return card_store(settings, StateFolder(state))


def numbered(card: LoRACard, known: Sequence[ListedCard]) -> LoRACard:
    """The card under a number above every version of this node's own of that name.

    One that has such a number keeps it, and its digest.
    """
    own = [one.version for one in known if one.name == card.name and one.signer is None]
    least = max(own, default=0) + 1
    return card if card.version >= least else replace(card, version=least, digest=None, bytes=None)


async def publish(
    client: FleetClient,
    store: CardStore,
    card: LoRACard,
    author: SkillCard | None,
    timeout: float,
) -> SkillCard:
    """Return the card as it was installed. With an `author` it stays that author's, as it is.

    A card that is in service already is returned at once. Raises `Failed` where the fleet rejects
    it, or says nothing within `timeout` seconds.
    """
    for attempt in range(ATTEMPTS):
        known = await client.skills()
        here = next(
            (one for one in known if one.digest == card.digest and one.state == "installed"), None
        )
        if here is not None:
            return here
        made = card if author is not None else numbered(card, known)
        stored = await asyncio.to_thread(store.put, made)
        told = describe(stored)
        if author is not None:
            told = msgspec.structs.replace(told, signer=author.signer, signature=author.signature)
        answer = await _judged(client, told, timeout)
        if isinstance(answer, SkillInstalled):
            return answer.card
        if author is not None or TAKEN not in answer.reason or attempt == ATTEMPTS - 1:
            raise Failed(f"the fleet rejects {told.name}@{told.version}: {answer.reason}")
    raise AssertionError("unreachable")


async def _judged(
    client: FleetClient, card: SkillCard, timeout: float
) -> SkillInstalled | SkillRejected:
    bus = client.bus
    async with bus.watch((SkillInstalled, SkillRejected)) as told:
        said = SkillPublished(card=card, origin=socket.gethostname())
        await bus.publish(Event(data=said, source=bus.source))
        try:
            async with asyncio.timeout(timeout):
                while True:
                    data = (await told.get()).data
                    if isinstance(data, SkillInstalled) and data.card.digest == card.digest:
                        return data
                    if isinstance(data, SkillRejected) and data.digest == card.digest:
                        return data
        except TimeoutError:
            pass
    raise Failed(
        f"nothing was heard of {card.name}@{card.version} within {timeout:g} s; it is in the "
        "journal, and is judged when the adapter manager and an encoder are there"
    )
