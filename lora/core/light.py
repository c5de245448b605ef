"""A model of the BERT family from its weights and from notes, without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from lora.core.facts import Facts
from lora.text import TextModel, unpadded

__all__ = ["WEIGHTS", "LightModel", "prefix_in", "skeleton"]

WEIGHTS: Final = "model.safetensors"

Tree = dict[str, Any]
"""Tensors by the parts of their names."""


class LightModel(TextModel):
    """Tokens as the notes say, weights mapped from their file; the pass itself is `RaggedCore`."""

    def __init__(
        self,
        folder: Path,
        facts: Facts,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Raises `OSError`, `ValueError` or `KeyError` where the files are not those noted."""
        text = facts.tokenizer
        tokenizer = (
            Tokenizer.from_file(str(folder / "tokenizer.json"))
            if text is None
            else Tokenizer.from_str(text)
        )
        super().__init__(
            unpadded(tokenizer, facts.max_tokens), facts.max_tokens, facts.prompts, facts.pad_token
        )
        self.device = device
        self.dim = facts.dim
        self._root = skeleton(_mapped(folder / WEIGHTS, facts.prefix), facts.shape.epsilon)
        self._root.to(device=device, dtype=dtype)
        self._root.eval()

    @property
    def root(self) -> nn.Module:
        return self._root


def skeleton(tensors: Mapping[str, Tensor], epsilon: float) -> nn.Module:
    """Modules that hold these weights under these names; none of them can be called as a whole."""
    tree: Tree = {}
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = tensor
    return _module("", tree, epsilon)


def prefix_in(file: Path, root: nn.Module) -> str | None:
    """What to put before the names of `root`'s weights to find them in the file; None
    where they are not all there.
    """
    own = {name: value for name, value in root.named_parameters()}
    try:
        with safe_open(file, framework="pt") as stored:
            names: set[str] = set(stored.keys())
            first = next(iter(own))
            prefixes = {name[: -len(first)] for name in names if name.endswith(first)}
            for prefix in sorted(prefixes):
                if all(
                    prefix + name in names
                    and torch.equal(stored.get_tensor(prefix + name).to(value.dtype), value.cpu())
                    for name, value in own.items()
                ):
                    return prefix
    except (OSError, SafetensorError):
        return None
    return None


def _mapped(file: Path, prefix: str) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as stored:
            return {
                name[len(prefix) :]: stored.get_tensor(name)
                for name in stored.keys()  # noqa: SIM118 (it is no mapping)
                if name.startswith(prefix)
            }
    except SafetensorError as e:
        raise ValueError(f"{file}: {e}") from e


def _module(name: str, tree: Tree, epsilon: float) -> nn.Module:
    weight = tree.get("weight")
    if isinstance(weight, Tensor):
        return _leaf(name, weight, tree.get("bias"), epsilon)
    children = {
        child: _module(child, below, epsilon)
        for child, below in tree.items()
        if isinstance(below, dict)
    }
    if children and all(child.isdigit() for child in children):
        return nn.ModuleList(children[str(number)] for number in range(len(children)))
    module = nn.Module()
    for child, made in children.items():
        module.add_module(child, made)
    return module


def _leaf(name: str, weight: Tensor, bias: Tensor | None, epsilon: float) -> nn.Module:
    leaf: nn.Module  # made small: its own weights are thrown away
    if name == "LayerNorm":
        leaf = nn.LayerNorm(weight.shape, eps=epsilon)
    elif bias is None and name.endswith(("_embeddings", "_bias")):
        leaf = nn.Embedding(1, 1)
        leaf.num_embeddings, leaf.embedding_dim = weight.shape
    else:
        leaf = nn.Linear(1, 1, bias is not None)
        leaf.out_features, leaf.in_features = weight.shape
    for key, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            setattr(leaf, key, nn.Parameter(value, requires_grad=False))
    return leaf
