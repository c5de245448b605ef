"""What an author signs of a card, and whether a card is believed.

A manifest is seven lines, so every field of it is one word of a strict form: a field with a line
break in it could otherwise say what its neighbours say. Whatever else a card tells of itself lies
in its file, whose digest is signed; the first line keeps the signature from meaning anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from schemas import SkillCard
from services.federation.errors import BadSignature, CardRefused, Untrusted
from services.federation.identity import NodeKey, fingerprint_of, is_public, verify

__all__ = ["check", "manifest", "sign"]

_HEAD: Final = "consonance skill card 1"
_FORMS: Final = {
    "digest": re.compile(r"sha256:[0-9a-f]{64}"),
    "name": re.compile(r"[a-z0-9][a-z0-9._-]{0,63}"),
    "version": re.compile(r"[1-9][0-9]{0,18}"),
    "base model": re.compile(r"[0-9a-f]{64}"),
    "bytes": re.compile(r"[1-9][0-9]{0,18}"),
    "time of creation": re.compile(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
        r"(Z|[+-][0-9]{2}:[0-9]{2})"
    ),
}


def manifest(card: SkillCard) -> bytes:
    """The bytes that a card's author signs; raises `BadSignature` for a malformed field."""
    fields = {
        "digest": card.digest,
        "name": card.name,
        "version": str(card.version),
        "base model": card.base_model.sha256,
        "bytes": str(card.bytes),
        "time of creation": card.created,
    }
    for what, text in fields.items():
        if _FORMS[what].fullmatch(text) is None:
            raise BadSignature(f"no signature can cover it: its {what} is malformed")
    return "\n".join([_HEAD, *fields.values()]).encode()


def sign(card: SkillCard, key: NodeKey) -> SkillCard:
    """The card with this key's signature; raises `CardRefused` for the card of another author."""
    if card.signer is not None and card.signer != key.public:
        raise CardRefused("it has an author, in whose place nobody signs")
    return msgspec.structs.replace(card, signer=key.public, signature=key.sign(manifest(card)))


def check(card: SkillCard, trusted: Callable[[str], bool]) -> None:
    """Believe the card or raise: `Untrusted`, and only for a trusted signer `BadSignature`."""
    if card.signer is None:
        raise Untrusted("nobody signed it")
    if not is_public(card.signer):
        raise Untrusted("its signer is no public key")
    if not trusted(card.signer):
        raise Untrusted(f"its signer {fingerprint_of(card.signer)} is not on the trust list")
    if card.signature is None:
        raise BadSignature("it names a signer and has no signature")
    if not verify(card.signer, card.signature, manifest(card)):
        raise BadSignature(
            f"its signature is not that of {fingerprint_of(card.signer)} over what it says"
        )
