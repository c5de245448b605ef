"""Texts and cards: the same on every machine from the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import torch

from demo import domain
from lora.adapter import HEAD, Adapter
from lora.card import LoRACard
from lora.config import LoRAConfig
from lora.engine import ArrowEngine

__all__ = ["QUERY_VALUE", "Texts", "head_card", "plain_card", "trained_card", "wide_card"]

QUERY_VALUE: Final = ("query", "value")
WIDE_LAYERS: Final = ("query", "key", "value", "dense")
_CREATED: Final = "2026-01-01T00:00:00Z"
_LEARNING_RATE: Final = 2e-3
_TEMPERATURE: Final = 0.05


class Texts:
    """First sentences of docstrings, and the signatures they describe, of the standard library."""

    def __init__(self, seed: int) -> None:
        found = list(domain.pairs())
        random.Random(seed).shuffle(found)
        self.pairs: Final = [(pair.query, pair.passage) for pair in found]

    def mixed(self, count: int) -> list[str]:
        """Sentences and signatures by turns, short and long ones; repeated where they run out."""
        both = [text for pair in self.pairs for text in pair]
        return [both[i % len(both)] for i in range(count)]

    def queries(self, count: int) -> list[str]:
        """Sentences, from the last pair on; repeated where they run out."""
        last = len(self.pairs) - 1
        return [self.pairs[last - i % len(self.pairs)][0] for i in range(count)]


def plain_card(engine: ArrowEngine, number: int, *, rank: int = 8) -> LoRACard:
    """A body on query and value, as large as what training leaves."""
    return _card(engine, f"plain-{number}", _layers(engine, QUERY_VALUE, rank, number), rank)


def wide_card(engine: ArrowEngine, megabytes: int, number: int = 0) -> LoRACard:
    """A body on every layer of the encoder, of the rank that takes so many megabytes."""
    named = _named(engine, WIDE_LAYERS)
    numbers = sum(sum(_shape(engine, name)) for name in named)
    rank = max(1, round(megabytes * 1e6 / 4 / numbers))
    modules = _layers(engine, WIDE_LAYERS, rank, 10_000 + number)
    return _card(engine, f"wide-{number}", modules, rank)


def head_card(engine: ArrowEngine, number: int, *, rank: int = 8) -> LoRACard:
    """Nothing but a head."""
    rng = np.random.default_rng((2, number))
    return _card(
        engine, f"head-{number}", {HEAD: _adapter(rng, engine.dim, engine.dim, rank)}, rank
    )


def trained_card(
    engine: ArrowEngine, pairs: Sequence[tuple[str, str]], *, steps: int, batch: int = 12
) -> LoRACard:
    """A body that learned in `steps` which signature a sentence describes: in-batch negatives."""
    config = LoRAConfig(rank=8, alpha=16.0, target_modules=QUERY_VALUE, seed=0)
    with engine.exclusive():
        parameters = engine.manager.attach_trainable(config)
        optimizer = torch.optim.AdamW(list(parameters.values()), lr=_LEARNING_RATE)
        for step in range(steps):
            chosen = [pairs[(step * batch + i) % len(pairs)] for i in range(batch)]
            queries, passages = (
                torch.nn.functional.normalize(engine.forward(engine.prepare(list(side))), dim=-1)
                for side in zip(*chosen, strict=True)
            )
            scores = queries @ passages.T / _TEMPERATURE
            loss = torch.nn.functional.cross_entropy(scores, torch.arange(len(chosen)))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        modules = engine.manager.detach()
    return _card(engine, "trained", modules, config.rank)


def _card(engine: ArrowEngine, name: str, modules: dict[str, Adapter], rank: int) -> LoRACard:
    return LoRACard(
        name=name,
        base_model=engine.base_model,
        dim=engine.dim,
        modules=modules,
        rank=rank,
        alpha=2.0 * rank,
        created=_CREATED,
    )


def _layers(
    engine: ArrowEngine, targets: Iterable[str], rank: int, number: int
) -> dict[str, Adapter]:
    rng = np.random.default_rng((1, number))
    return {name: _adapter(rng, *_shape(engine, name), rank) for name in _named(engine, targets)}


def _named(engine: ArrowEngine, targets: Iterable[str]) -> list[str]:
    wanted = set(targets)
    return [
        name
        for name in engine.manager.linears
        if name.rpartition(".")[2] in wanted and "pooler" not in name
    ]


def _shape(engine: ArrowEngine, name: str) -> tuple[int, int]:
    linear = engine.manager.model.get_submodule(name)
    return int(linear.in_features), int(linear.out_features)  # type: ignore[arg-type]


def _adapter(rng: np.random.Generator, inputs: int, outputs: int, rank: int) -> Adapter:
    """Factors of one size which, with alpha twice the rank, add a tenth of the input's length."""
    size = (0.05 / np.sqrt(rank * outputs)) ** 0.5
    a = rng.normal(0, size, (inputs, rank)).astype(np.float32)
    b = rng.normal(0, size, (rank, outputs)).astype(np.float32)
    return Adapter(a, b, rank, 2.0 * rank)
