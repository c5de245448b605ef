"""What every vector must be: made while nothing happened, compared with all that came later."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bus import Bus
from lora.card import LoRACard
from services.runtime.client import FleetClient
from tests.fleet import harness
from tests.fleet.cards import head, install
from tests.torture.fleet.domains import DOMAINS, spoken

__all__ = ["LIMIT", "Models", "Truth", "fresh", "prepare"]

LIMIT: Final = 1e-5
"""The most by which a value of a vector may differ from the one before the chaos."""

KNOWN: Final = 48
"""Texts whose vectors are known."""

ROUTED: Final = ("the flux capacitor hums", "how do I calm the flux capacitor?")
WORDS: Final = (
    *("order", "card", "refund", "parcel", "invoice", "battery", "window", "engine", "garden"),
    *("ticket", "password", "account", "bread", "river", "moon", "train", "bottle", "music"),
    *("doctor", "winter", "bridge", "sugar", "letter", "market", "signal", "copper"),
)

Digests = tuple[str, ...]


def fresh(chance: random.Random) -> str:
    """A text that was hardly asked before."""
    words = chance.choices(WORDS, k=chance.randint(3, 24))
    return " ".join([*words, str(chance.randrange(10**6))])


@dataclass(frozen=True)
class Models:
    """The cards that are there from the beginning."""

    bent: LoRACard
    """A head; by name only."""
    routed: LoRACard
    """A head that the router finds for `ROUTED`."""
    deep: LoRACard
    """Adapters within the model."""

    @property
    def named(self) -> dict[str, Digests]:
        """What a client may ask for by name, and the cards that it then gets."""
        return {
            self.bent.name: (self.bent.key,),
            self.routed.name: (self.routed.key,),
            self.deep.name: (self.deep.key,),
            f"{self.bent.name}+{self.deep.name}": (self.bent.key, self.deep.key),
        }


@dataclass
class Truth:
    """Vectors by text and by the cards that made them."""

    texts: tuple[str, ...]
    models: Models
    known: dict[tuple[str, Digests], NDArray[np.float32]] = field(default_factory=dict)
    compared: int = 0
    furthest: float = 0.0

    def check(
        self, texts: Sequence[str], rows: Sequence[Digests], vectors: NDArray[np.float32]
    ) -> str:
        """What is wrong with an answer, or nothing.

        The cards that were learned meanwhile are held against the first vectors that they made.
        """
        if vectors.shape[0] != len(texts) or len(rows) != len(texts):
            return f"{len(texts)} texts were answered with {vectors.shape[0]} vectors"
        if not np.isfinite(vectors).all():
            return "a vector is not finite"
        for text, digests, vector in zip(texts, rows, vectors, strict=True):
            if text not in self._pool:
                continue
            expected = self.known.setdefault((text, digests), vector)
            if expected is vector:
                continue
            self.compared += 1
            far = float(np.abs(expected - vector).max())
            self.furthest = max(self.furthest, far)
            if far > LIMIT:
                return f"the vector of {text!r} by {digests or 'the base model'} is {far:.2g} off"
        return ""

    def __post_init__(self) -> None:
        self._pool = frozenset(self.texts)


async def prepare(bus: Bus, fleet: harness.Fleet, seed: int) -> Truth:
    """Install the cards, and have every vector made that will be compared."""
    client = FleetClient(bus)
    points = (await client.encode(ROUTED, route="base")).vectors
    routed = replace(
        head("routed", seed + 1), prototypes=np.ascontiguousarray(points), threshold=0.6
    )
    inner: Any = head("deep", seed + 2).modules["embedding"]
    keys = [
        f"encoder.layer.{n}.attention.self.{it}" for n in (0, 3, 5) for it in ("query", "value")
    ]
    deep = replace(head("deep", seed + 2), modules=dict.fromkeys(keys, inner))
    models = Models(
        bent=await install(bus, fleet, head("bent", seed)),
        routed=await install(bus, fleet, routed),
        deep=await install(bus, fleet, deep),
    )
    chance = random.Random(f"texts {seed}")
    asked = [query for name in DOMAINS for query, _ in spoken(name)]
    texts = (*ROUTED, *chance.sample(asked, KNOWN // 3))
    texts += tuple(fresh(chance) for _ in range(KNOWN - len(texts)))
    truth = Truth(texts, models)
    base = await client.encode(texts, route="base")
    _learn(truth, [()] * len(texts), base.vectors)
    for name, digests in models.named.items():
        made = await client.encode(texts, skills=name.split("+"))
        _learn(truth, [digests] * len(texts), made.vectors)
    return truth


def _learn(truth: Truth, rows: Sequence[Digests], vectors: NDArray[np.float32]) -> None:
    for text, digests, vector in zip(truth.texts, rows, vectors, strict=True):
        truth.known[text, digests] = np.array(vector)
