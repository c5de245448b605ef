"""From what a person calls a card to its file: a path, a digest in the store, a skill's name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from lora.card import EXTENSION, LoRACard, LoRAFormat
from schemas import SkillCard
from services.command.authorship import claimed_by
from services.command.errors import InputRefused
from services.command.place import Place
from services.runtime.cards import describe

__all__ = ["Held", "facts_of", "held", "opened"]

_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{12,64})")


class Held(NamedTuple):
    """A card's file, and what is known of it from elsewhere."""

    path: Path
    digest: str | None = None
    """What its bytes must have; None where nobody said."""
    known: SkillCard | None = None
    """As the fleet lists it, with its author."""


async def held(what: str, at: Place) -> Held:
    """The file that a path, a digest, 12 of its digits, or a skill's name means.

    Only for a name the fleet is asked. Raises `InputRefused`, `NoFleet`.
    """
    path = Path(what).expanduser() if what.startswith("~") else Path(what)
    if path.is_file() or what.endswith(EXTENSION) or (os.sep in what and path.exists()):
        return Held(path)
    store = at.folder / "cards"
    digest = _DIGEST.fullmatch(what)
    if digest is not None:
        files = sorted(store.glob(f"{digest[1]}*{EXTENSION}"))
        if len(files) > 1:
            raise InputRefused(f"the digest {what!r} begins more than one card: give more digits")
        if files:
            return Held(files[0], "sha256:" + files[0].name.removesuffix(EXTENSION))
    from services.command.cards import client_at, found

    async with client_at(at) as client:
        card = await found(client, what)
    hexes = card.digest.removeprefix("sha256:")
    return Held(store / f"{hexes}{EXTENSION}", card.digest, card)


def opened(card: Held) -> tuple[LoRACard, SkillCard]:
    """The card, verified as it is read, and its description with its author's claim.

    Raises `CardError`, `InputRefused`.
    """
    read = LoRAFormat.read(card.path, digest=card.digest)
    told = describe(read)
    if card.known is None:
        return read, claimed_by(told, card.path)
    author = {"signer": card.known.signer, "signature": card.known.signature}
    return read, msgspec.structs.replace(told, **author)


def facts_of(card: LoRACard) -> dict[str, Any]:
    """What people and programs want to know of a card."""
    return {
        "name": card.name,
        "version": card.version,
        "digest": card.digest,
        "bytes": card.bytes,
        "description": card.description,
        "base_model": {"id": card.base_model.id, "sha256": card.base_model.sha256},
        "dim": card.dim,
        "rank": card.rank,
        "alpha": card.alpha,
        "applies_to": card.applies_to,
        "threshold": card.threshold,
        "prototypes": 0 if card.prototypes is None else len(card.prototypes),
        "created": card.created,
        "author": card.author,
        "trainer": card.trainer,
        "data_digest": card.data_digest,
        "parents": card.parents,
        "metrics": dict(card.metrics),
        "extra": {key: value for key, value in card.extra.items() if len(value) <= 200},
        "modules": [
            {
                "module": name,
                "inputs": adapter.inputs,
                "outputs": adapter.outputs,
                "rank": adapter.rank,
                "alpha": adapter.alpha,
                "dtype": adapter.dtype,
                "bytes": adapter.stored,
            }
            for name, adapter in card.modules.items()
        ],
    }
