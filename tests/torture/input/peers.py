"""What peers send: tickets, how they are, cards on offer and where those claim to belong."""

from __future__ import annotations

import base64
from random import Random
from typing import Any

import msgspec
import numpy as np

from lora.boundary import Boundary
from lora.errors import LoRAError
from schemas import SkillCard
from services.errors import CardDescriptionError
from services.federation.catalogue import Catalogue
from services.federation.errors import FederationError
from services.federation.manifest import check as believed
from services.federation.manifest import manifest
from services.federation.protocol import Health, Ticket, card_from, health_from
from services.runtime.cards import edition_of
from services.runtime.skill_index import SkillIndex
from tests.torture.input.events import sample
from tests.torture.input.target import Target, hold
from tests.torture.input.trees import dented, mutated

__all__ = ["TARGET"]

DIM = 6


def _card() -> SkillCard:
    card: SkillCard = sample(SkillCard)
    rows = base64.b64encode(np.eye(2, DIM, dtype="<f4").tobytes()).decode()
    plane = Boundary(np.eye(1, DIM, dtype=np.float32)[0], 0.1).to_text()
    return msgspec.structs.replace(
        card,
        prototypes=rows,
        boundary=plane,
        threshold=0.5,
        applies_to=("query",),
        created="2026-01-02T03:04:05Z",
        base_model=msgspec.structs.replace(card.base_model, sha256="ab" * 32),
        signer="ed25519:" + "A" * 43,
        signature="A" * 86,
    )


def _seeds() -> list[bytes]:
    digest = "sha256:" + "ab" * 32
    health = Health(node="london", key="ed25519:x", version=1, cards=3, revision="abc")
    return [
        b"t" + digest.encode(),
        b"t" + f"frames/{digest}+4096".encode(),
        b"h" + msgspec.json.encode(health),
        b"c" + msgspec.json.encode(_card()),
    ]


def check(data: bytes) -> bool:
    """Read it as the node does that it comes to."""
    kind, frame = data[:1], data[1:]
    if kind == b"t":
        ticket = Ticket.parse(frame)
        hold(ticket is None or ticket.encode().startswith(frame[:1]), "another ticket")
        catalogue = Catalogue("me")
        catalogue.find(frame.decode("utf-8", "replace"))
        return ticket is not None
    if kind == b"h":
        try:
            health = health_from(frame)
        except FederationError as error:
            hold(len(str(error)) <= 4000, "the error repeats a long part of the frame")
            return False
        hold(health.cards >= 0 and len(health.revision) <= 128, "out of range")
        return True
    return _offered(frame)


def _offered(frame: bytes) -> bool:
    try:
        card = card_from(frame)
    except FederationError as error:
        hold(len(str(error)) <= 4000, "the error repeats a long part of the frame")
        return False
    try:
        believed(card, lambda key: True)
        hold(False, "a card is believed that nobody signed")
    except FederationError:
        pass
    try:
        hold(manifest(card).count(b"\n") == 6, "a manifest has seven lines")
    except FederationError:
        return False
    edition_of(card)
    index = SkillIndex(DIM, 0.6)
    query = np.eye(1, DIM, dtype=np.float32)
    for put in (index.offer, index.install):
        try:
            put(card)
        except (CardDescriptionError, LoRAError):
            continue
        with np.errstate(all="raise"):
            scores: Any = index.scores("query", query)
            hold(bool(np.isfinite(scores).all()), "a claim makes a score that is no number")
            hold(bool((abs(scores) <= 1.001).all()), "a claim makes a score that is no cosine")
            index.decide("query", query, 1)
            index.nearest("query", query)
    return True


VALUES = [
    "AAAA",
    "AAAAAAAA",
    "AACAfwAAgH8=",
    "A" * 400,
    "//8=",
    "=",
    "ed25519:" + "A" * 43,
    "1" * 30,
]


def _mutate(data: bytes, random: Random) -> bytes:
    if data[:1] == b"t" or random.random() < 0.05:
        return data[:1] + dented(data[1:], random)
    return data[:1] + mutated(data[1:], random, VALUES)


TARGET = Target(
    name="peers",
    about="tickets, health and offers of peers",
    seeds=_seeds,
    mutate=_mutate,
    check=check,
    longest=1 << 13,
)
