"""Model folders made by changing the tiny model's weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

Array = np.ndarray
Change = Callable[[str, Array], Array | None]


def changed(folder: Path, to: Path, change: Change) -> Path:
    """A copy of the model whose tensors are what `change(name, array)` gives, None for none."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    made = {name: change(name, array) for name, array in tensors.items()}
    kept = {name: np.ascontiguousarray(array) for name, array in made.items() if array is not None}
    save_file(kept, to / "model.safetensors", {"format": "pt"})
    return to


def is_linear(name: str) -> bool:
    return name.endswith(("query.weight", "key.weight", "value.weight", "dense.weight"))


def low_rank(rank: int, *, size: float = 0.2, seed: int = 0) -> Change:
    """Adds a change of this rank, `size` times the weight's norm, to every Linear layer."""
    rng = np.random.default_rng(seed)

    def change(name: str, array: Array) -> Array:
        if not is_linear(name):
            return array
        rows, columns = array.shape
        delta = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
        delta *= size * np.linalg.norm(array) / np.linalg.norm(delta)
        return (array + delta).astype(array.dtype)

    return change
