"""Whether a card's file is what an event says, and made for this fleet's model; torch-free."""

from __future__ import annotations

import msgspec

from lora.card import BaseModel
from lora.errors import LoRAError, StoreError
from lora.store import CardStore
from schemas import SkillCard
from services.adapter_manager.errors import Rejected
from services.errors import CardDescriptionError
from services.runtime.cards import describe

__all__ = ["verified"]


def verified(store: CardStore, claimed: SkillCard, model: BaseModel) -> SkillCard:
    """The card as its own file describes it, with signer and signature as the event has them.

    Nothing in a file says whose it is. Opening it checks the digest before the bytes are parsed,
    then the format, the shapes and every value. From here on whoever uses the store finds it.
    Raises `Rejected`, or `StoreError` where the store cannot be had.
    """
    if claimed.base_model.sha256 != model.sha256:
        raise Rejected(_other_model(claimed, model))
    try:
        found = describe(store.open(claimed.digest))
        store.share(claimed.digest)
    except StoreError:
        raise
    except (LoRAError, CardDescriptionError) as error:
        raise Rejected(str(error)) from error
    if found.base_model.sha256 != model.sha256:
        raise Rejected(_other_model(found, model))
    for what in ("name", "version"):
        if getattr(found, what) != getattr(claimed, what):
            raise Rejected(
                f"the event says {what} {getattr(claimed, what)!r}, "
                f"the file {getattr(found, what)!r}"
            )
    return msgspec.structs.replace(found, signer=claimed.signer, signature=claimed.signature)


def _other_model(card: SkillCard, model: BaseModel) -> str:
    return (
        f"it was trained on {card.base_model.id} ({card.base_model.sha256[:12]}…), "
        f"this fleet serves {model.id} ({model.sha256[:12]}…)"
    )
