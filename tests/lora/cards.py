"""Cards and adapters for the tests of `lora`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lora import Adapter, BaseModel, LoRACard, LoRAFormat

BASE = BaseModel("test/base", "ab" * 32)


def adapter(
    inputs: int,
    outputs: int,
    rank: int = 4,
    *,
    seed: int = 0,
    alpha: float = 8.0,
    size: float = 0.1,
) -> Adapter:
    rng = np.random.default_rng(seed)
    a = rng.normal(0, size, (inputs, rank)).astype(np.float32)
    b = rng.normal(0, size, (rank, outputs)).astype(np.float32)
    return Adapter(a, b, rank, alpha)


def card(name: str = "bank", **fields: Any) -> LoRACard:
    fields.setdefault("base_model", BASE)
    fields.setdefault("dim", 6)
    fields.setdefault("modules", {"embedding": adapter(6, 6)})
    fields.setdefault("created", "2026-01-02T03:04:05Z")
    return LoRACard(name=name, **fields)


def model_card(
    engine: Any,
    folder: Path,
    seed: int,
    *,
    body: bool = True,
    head: bool = False,
    targets: Iterable[str] = ("query", "value"),
    **fields: Any,
) -> LoRACard:
    """A card for the engine's model, written to `folder` and read back."""
    modules: dict[str, Adapter] = {}
    if body:
        for i, name in enumerate(engine.manager.linears):
            linear = engine.manager.model.get_submodule(name)
            if name.split(".")[-1] in targets and "pooler" not in name:
                shape = linear.in_features, linear.out_features
                modules[name] = adapter(*shape, rank=8, seed=1000 * seed + i, size=0.06)
    if head:
        modules["embedding"] = adapter(engine.dim, engine.dim, rank=8, seed=seed, size=0.1)
    made = card(
        f"skill-{seed}", base_model=engine.base_model, dim=engine.dim, modules=modules, **fields
    )
    path = folder / f"{seed}-{body}-{head}.lora.arrow"
    LoRAFormat.write(made, path)
    return LoRAFormat.read(path)


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.sum(x * y, axis=1, dtype=np.float64) / norms
