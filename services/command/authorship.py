"""Who made a card that lies in a file: `NAME.lora.arrow.sig` beside it, and the trust list.

A card's file says nothing of its author that could be believed. In a fleet the signature travels
with the event that tells of the card; beside a file it lies in a small one of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from schemas import SkillCard
from services.command.errors import InputRefused
from services.federation.errors import BadSignature, Untrusted
from services.federation.identity import NodeKey, fingerprint_of
from services.federation.manifest import check, sign
from services.federation.trust import TrustList

__all__ = ["SUFFIX", "Author", "author_of", "beside", "claimed_by", "signed_here"]

SUFFIX: Final = ".sig"
_LIMIT: Final = 64 << 10

Standing = Literal["unsigned", "own", "trusted", "untrusted", "forged"]


class Author(NamedTuple):
    """Whose a card is, as far as that can be said."""

    standing: Standing
    signer: str | None = None
    """The author's public key."""
    reason: str = ""

    @property
    def told(self) -> str:
        """For people."""
        if self.standing == "trusted" and self.signer is not None:
            return f"signed by {fingerprint_of(self.signer)}, who is on the trust list"
        return {"unsigned": "nobody signed it", "own": "signed by this node"}.get(
            self.standing, self.reason
        )


class _Signature(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    signer: str
    signature: str


def beside(card: SkillCard) -> bytes | None:
    """What is written beside the file of a signed card; None for one that is not signed."""
    if card.signer is None or card.signature is None:
        return None
    words = _Signature(digest=card.digest, signer=card.signer, signature=card.signature)
    return msgspec.json.format(msgspec.json.encode(words)) + b"\n"


def claimed_by(card: SkillCard, file: Path) -> SkillCard:
    """The card with the signature that lies beside its file; as it is where none does.

    Raises `InputRefused` where that is no signature, or one of another card.
    """
    path = file.with_name(file.name + SUFFIX)
    try:
        with path.open("rb") as handle:
            raw = handle.read(_LIMIT)
    except FileNotFoundError:
        return card
    except OSError as error:
        raise InputRefused(f"{path} cannot be read: {error.strerror}") from error
    try:
        found = msgspec.json.decode(raw, type=_Signature)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputRefused(f"{path} is no signature: {error}") from error
    if found.digest != card.digest:
        raise InputRefused(f"{path} is the signature of another card, {found.digest}")
    return msgspec.structs.replace(card, signer=found.signer, signature=found.signature)


def author_of(card: SkillCard, keys: Path, say: Callable[[str], None]) -> Author:
    """Whose the card is, by the trust list and the node's own key in the folder `keys`."""
    if card.signer is None:
        return Author("unsigned")
    own = _own(keys)
    trusted = TrustList(keys / "trusted", own, report=say)
    try:
        check(card, trusted.accepts)
    except Untrusted as error:
        return Author("untrusted", card.signer, str(error))
    except BadSignature as error:
        return Author("forged", card.signer, str(error))
    return Author("own" if card.signer == own else "trusted", card.signer)


def signed_here(card: SkillCard, keys: Path) -> SkillCard:
    """A card of this node's own, with its signature."""
    return sign(card, NodeKey.load_or_create(keys / "node.key"))


def _own(keys: Path) -> str | None:
    """This node's public key; None where it has none yet."""
    path = keys / "node.key"
    return NodeKey.load_or_create(path).public if path.exists() else None
