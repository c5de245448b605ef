"""Reads a card out of whatever holds one: a card's file, a PEFT folder, plain safetensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lora.card import EXTENSION, HEAD, LoRACard, LoRAFormat
from lora.card_checks import NAME
from lora.errors import CardInvalidError
from lora.interop import import_peft, import_safetensors, load_adapters
from lora.model import find_model
from schemas import SkillCard
from services.command.authorship import claimed_by
from services.command.errors import InputRefused
from services.runtime.cards import describe

__all__ = ["Imported", "import_card"]

Imported = tuple[LoRACard, SkillCard | None]
"""The card, and its description where somebody has signed it."""


def import_card(
    source: Path, *, name: str | None, model: str | None, alpha: float | None, about: dict[str, Any]
) -> Imported:
    """The card in `source`; `about` is laid over what it says of itself.

    Raises `LoRAError`, `InputRefused`.
    """
    if source.name.endswith(EXTENSION):
        return _card_file(source, name, about)
    if not source.exists():
        raise InputRefused(f"there is no {source}")
    chosen = _name(source, name)
    base = find_model(model)
    if source.is_dir():
        if not (source / "head.safetensors").exists():
            if not (source / "adapter_config.json").exists():
                raise InputRefused(
                    f"{source} is no PEFT folder: it has neither adapter_config.json nor "
                    "head.safetensors"
                )
            about = {"dim": _dim(model), **about}
        return import_peft(source, name=chosen, base_model=base.base_model, **about), None
    if source.suffix != ".safetensors":
        raise InputRefused(
            f"{source} is no NAME{EXTENSION}, no PEFT folder and no .safetensors file"
        )
    if HEAD not in load_adapters(source, alpha=alpha):
        about = {"dim": _dim(model), **about}
    card = import_safetensors(source, name=chosen, base_model=base.base_model, alpha=alpha, **about)
    return card, None


def _card_file(source: Path, name: str | None, about: dict[str, Any]) -> Imported:
    card = LoRAFormat.read(source)
    changed = {**about, **({"name": name} if name not in (None, card.name) else {})}
    if changed:  # by that it is another card, which its author has not signed
        try:
            return replace(card, digest=None, bytes=None, **changed), None
        except CardInvalidError as error:
            raise InputRefused(str(error)) from error
    claimed = claimed_by(describe(card), source)
    return card, claimed if claimed.signer is not None else None


def _name(source: Path, name: str | None) -> str:
    found = source.resolve().stem if name is None else name
    if NAME.fullmatch(found) is None:
        hint = "say --name; it" if name is None else "a card's name"
        raise InputRefused(f"{found!r} is no card's name: {hint} must match {NAME.pattern}")
    return found


def _dim(model: str | None) -> int:
    """Width of the model's embeddings: an adapter without a head does not say."""
    from lora.checkpoint import Checkpoint  # with torch, which nothing else here needs

    return Checkpoint(model).dim
