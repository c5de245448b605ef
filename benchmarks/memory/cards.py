"""Cards that are there before a fleet starts, and cards whose bodies requests ask for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from lora import layout
from lora.adapter import HEAD, Adapter
from lora.card import BaseModel, LoRACard, LoRAFormat
from lora.model import find_model
from lora.store import CardStore
from services.adapter_manager.ledger import Ledger
from services.runtime.cards import describe
from services.runtime.state import StateFolder

__all__ = ["PROTOTYPES", "active_cards", "register", "registered_cards"]

RANK: Final = 8
PROTOTYPES: Final = 8
"""Of each card that is routed to; as training leaves them."""


def registered_cards(model: str | None, count: int) -> Iterable[LoRACard]:
    """Heads with prototypes, routed to and never asked for."""
    base, width, _ = _model(model)
    for number in range(count):
        rng = np.random.default_rng((3, number))
        points = rng.normal(size=(PROTOTYPES, width)).astype(np.float32)
        yield LoRACard(
            name=f"registered-{number}",
            base_model=base,
            dim=width,
            modules={HEAD: _adapter(rng, width)},
            prototypes=points / np.linalg.norm(points, axis=1, keepdims=True),
            threshold=0.95,
            created="2026-01-01T00:00:00Z",
        )


def active_cards(model: str | None, count: int, dtype: str) -> list[LoRACard]:
    """Bodies of rank 8 on query and value, for use by name."""
    base, width, layers = _model(model)
    made = []
    for number in range(count):
        rng = np.random.default_rng((4, number))
        modules = {
            f"encoder.layer.{layer}.attention.self.{name}": _adapter(rng, width).astype(dtype)
            for layer in range(layers)
            for name in ("query", "value")
        }
        made.append(
            LoRACard(
                name=f"{dtype}-{number}",
                base_model=base,
                dim=width,
                modules=modules,
                created="2026-01-01T00:00:00Z",
            )
        )
    return made


def register(state: Path, cards: Iterable[LoRACard]) -> None:
    """Put cards into the store and the manager's table of a fleet that does not run, as installed.

    They are not flushed one by one: nothing is lost here but a measurement.
    """
    folder = StateFolder(state)
    store = CardStore(folder.cards)
    ledger = Ledger(folder.of("adapter_manager") / "cards.sqlite")
    try:
        with ledger.together():
            for card in cards:
                data = LoRAFormat.encode(card)
                digest = layout.digest_of_bytes(data)
                store.path(digest).write_bytes(data)
                ledger.put(describe(store.open(digest)), "installed", cause="a benchmark")
    finally:
        ledger.close()


def _adapter(rng: np.random.Generator, width: int) -> Adapter:
    a = rng.normal(0, 0.03, (width, RANK)).astype(np.float32)
    b = rng.normal(0, 0.03, (RANK, width)).astype(np.float32)
    return Adapter(a, b, RANK, 2.0 * RANK)


def _model(model: str | None) -> tuple[BaseModel, int, int]:
    """Which model it is, how wide, how many layers; one of BERT's family."""
    found = find_model(model)
    config = json.loads((found.folder / "config.json").read_text("utf-8"))
    return found.base_model, int(config["hidden_size"]), int(config["num_hidden_layers"])
