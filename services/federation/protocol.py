"""What peers say to each other over Flight: tickets, frames, and how a node is.

A ticket is text. `sha256:…` is a card's file as binary slices, `sha256:…+N` from its byte N on;
`frames/` before it puts the slices into the metadata of empty batches, which are read without
anything being decoded. `frames/skills` is the list of cards on offer, a frame each, and
`frames/health` is one frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
import pyarrow as pa

from schemas import NAME_PATTERN, SkillCard
from services.federation.errors import FederationError, PeerMisbehaved

__all__ = [
    "EMPTY",
    "FRAME",
    "HEALTH",
    "MAX_FRAME",
    "MIN_FRAME",
    "NOTHING",
    "SKILLS",
    "SLICES",
    "VERSION",
    "Endpoint",
    "Health",
    "Ticket",
    "card_from",
    "health_from",
]

VERSION: Final = 1
"""Of what is said here; a peer that speaks another one is not asked further."""

FRAME: Final = 512 << 10
"""Bytes of a card in one frame or slice."""

MIN_FRAME: Final = 4 << 10
"""A peer that sends less in a frame, the last one apart, breaks the protocol."""

MAX_FRAME: Final = 2 << 20
"""The largest message that a client takes, in bytes; a card's description is below 1 MiB."""

SLICES: Final = pa.schema([("data", pa.large_binary())])
"""The batches of a card for tools that read columns: one opaque slice a row."""

EMPTY: Final = pa.schema([])
NOTHING: Final = pa.RecordBatch.from_arrays([], schema=EMPTY)

SKILLS: Final = "frames/skills"
HEALTH: Final = "frames/health"

_TICKET: Final = re.compile(r"(frames/)?(sha256:[0-9a-f]{64})(?:\+(0|[1-9][0-9]{0,15}))?")


@dataclass(frozen=True)
class Ticket:
    """A card's file, from a byte on."""

    digest: str
    offset: int = 0
    frames: bool = False
    """In the metadata of empty batches, instead of in a column."""

    @classmethod
    def parse(cls, text: bytes) -> Ticket | None:
        """The ticket that a client sent; None where it is none."""
        try:
            found = _TICKET.fullmatch(text[:128].decode("ascii"))
        except UnicodeDecodeError:
            return None
        if found is None or len(text) > 128:
            return None
        return cls(found[2], int(found[3] or 0), bool(found[1]))

    def encode(self) -> bytes:
        """The text that travels."""
        start = f"+{self.offset}" if self.offset else ""
        return f"{'frames/' if self.frames else ''}{self.digest}{start}".encode()


@dataclass(frozen=True)
class Endpoint:
    """Where a node's Flight server listens."""

    host: str
    port: int
    tls: bool = False

    @property
    def uri(self) -> str:
        """As Flight writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'grpc+tls' if self.tls else 'grpc'}://{host}:{self.port}"


_Word = Annotated[str, msgspec.Meta(max_length=128)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a node is, and whether what it offers has changed."""

    node: _Word
    key: _Word
    """Its public key."""
    version: _Count
    cards: _Count
    revision: _Word
    """Changes whenever the list of its cards does."""


_health = msgspec.json.Decoder(Health)
_card = msgspec.json.Decoder(SkillCard)
_NODE: Final = re.compile(NAME_PATTERN)


def health_from(frame: bytes) -> Health:
    """Raises `PeerMisbehaved`."""
    try:
        health = _health.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerMisbehaved(f"it says of itself what makes no sense: {error}") from error
    if _NODE.fullmatch(health.node) is None:
        raise PeerMisbehaved(f"it calls itself {health.node[:80]!r}, which is no name of a node")
    if health.version != VERSION:
        raise FederationError(f"it speaks version {health.version}, this node {VERSION}")
    return health


def card_from(frame: bytes) -> SkillCard:
    """Raises `PeerMisbehaved`."""
    try:
        card = _card.decode(frame)
        msgspec.msgpack.encode(card)  # numbers of more than 64 bits are no numbers elsewhere
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise PeerMisbehaved(f"it offers what is no card: {error}") from error
    return card
