"""The comparison in the shadow: both versions as they are routed, on the same pieces."""

import base64
from pathlib import Path

import numpy as np

from schemas import BaseModelRef, SkillCard
from services.factory.feedback import Piece
from services.factory.shadow import compare
from services.runtime.client import FleetClient
from tests.services.factory.fakes import stage, vector

DIGEST = "sha256:" + "7" * 64


def card(text: str, threshold: float | None) -> SkillCard:
    """A version whose only prototype is this text."""
    return SkillCard(
        name="birds",
        version=2,
        digest=DIGEST,
        bytes=1,
        rank=1,
        alpha=1.0,
        target_modules=("embedding",),
        base_model=BaseModelRef(id="fake", sha256="0" * 64),
        applies_to=("query",),
        description="",
        prototypes=base64.b64encode(vector(text).astype(np.float32).tobytes()).decode(),
        threshold=threshold,
        metrics={},
        created="2024-05-01T00:00:00Z",
        parents=(),
    )


def pieces() -> list[Piece]:
    return [
        Piece(f"answer to question {number}", (f"answer {number}",), (f"question {number}",))
        for number in range(60)
    ]


async def test_a_card_is_not_blamed_for_queries_that_it_is_never_given(tmp_path: Path) -> None:
    """Given a card that spoils every query, and a prototype far from all of them."""
    async with stage(tmp_path) as on:
        on.fleet.cards[DIGEST] = lambda text, base: -base
        client = FleetClient(on.bus)
        everywhere = await compare(client, pieces(), card("whales", None), None)
        nowhere = await compare(client, pieces(), card("whales", 0.9), None)
        given = await compare(client, pieces(), card("answer to question", 0.3), None)

    assert everywhere.accepted
    assert nowhere.gain == 0.0
    assert not nowhere.accepted
    assert given.accepted
