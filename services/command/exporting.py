"""Writes a card for others: its own file with a signature, a PEFT folder, plain safetensors."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from lora.card import EXTENSION, LoRAFormat
from lora.interop import export_peft, export_safetensors
from services.command.authorship import SUFFIX, beside, signed_here
from services.command.cardfiles import Held, opened
from services.command.errors import InputRefused
from services.command.files import check_free, whole_file
from services.runtime.cards import describe

__all__ = ["export_card"]


def export_card(
    held: Held, out: Path, keys: Path, *, dtype: str | None = None, force: bool
) -> tuple[Path, ...]:
    """Write the card by what `out` ends with; the files and folders that were written.

    With a `dtype` that it has not got, it becomes a card of its own, which is only this node's to
    sign where the first one was.

    A skill of this node's own, found through the fleet, is signed with the key in `keys`.
    Raises `LoRAError`, `InputRefused`, `FederationError`.
    """
    card, told = opened(held)
    stored = card if dtype is None else card.astype(dtype)
    if out.name.endswith(EXTENSION):
        check_free(out, force=force)
        own = held.known is not None and told.signer is None
        data = None if stored is card else LoRAFormat.encode(stored)
        if data is not None:
            told = describe(replace(stored, digest=stored.key, bytes=len(data)))
        if own:
            told = signed_here(told, keys)
        signature = beside(told)
        with whole_file(out) as file, held.path.open("rb") as source:
            if data is None:
                shutil.copyfileobj(source, file)
            else:
                file.write(data)
        note = out.with_name(out.name + SUFFIX)
        if signature is None:
            note.unlink(missing_ok=True)  # of the card that lay here before
            return (out,)
        with whole_file(note) as file:
            file.write(signature)
        return out, note
    if out.suffix == ".safetensors":
        check_free(out, force=force)
        export_safetensors(stored, out)
        return (out,)
    if out.suffix:
        raise InputRefused(
            f"the form of {out} is unknown: NAME{EXTENSION}, NAME.safetensors, or a folder for PEFT"
        )
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise InputRefused(f"{out} is there already: a PEFT folder must be new or empty")
    if not out.absolute().parent.is_dir():
        raise InputRefused(f"the folder {out.parent} does not exist")
    whole = out.with_name(f".{out.name}.{secrets.token_hex(6)}.tmp")
    try:
        export_peft(stored, whole)
        whole.replace(out)
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    return (out,)
