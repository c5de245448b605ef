"""Model folders made by changing a model's weights, and adapters that PEFT made."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def peft_saved(folder: Path, to: Path, **config: Any) -> tuple[Any, Any]:
    """An adapter of PEFT's, random but always the same, saved: the whole model, and PEFT's own."""
    import torch
    from peft import LoraConfig, get_peft_model
    from sentence_transformers import SentenceTransformer

    own = SentenceTransformer(str(folder), device="cpu")
    torch.manual_seed(0)
    chosen = LoraConfig(target_modules=["query", "value"], init_lora_weights=False, **config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(own[0].auto_model, chosen)
        wrapped.save_pretrained(to)
    return own, wrapped
