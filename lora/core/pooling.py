"""From tokens to one embedding a text, without padding; the model's further modules follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from lora.core.attention import Layout

__all__ = ["Plain", "Tail", "plain_tail", "tail_of"]

Pool = Callable[[Tensor, Layout], Tensor]
Further = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""A module behind the pooling."""


def _mean(tokens: Tensor, layout: Layout) -> Tensor:
    width = tokens.shape[-1]
    parts = [
        tokens[group.start : group.end].view(group.texts, group.length, width).mean(1)
        for group in layout.groups
    ]
    return torch.cat(parts)


def _first(tokens: Tensor, layout: Layout) -> Tensor:
    return tokens[torch.tensor(layout.offsets[:-1], device=tokens.device)]


_POOLS: Final[dict[str, Pool]] = {"mean": _mean, "cls": _first}


class Plain(NamedTuple):
    """A tail that two words describe."""

    pooling: str
    normalised: bool


class Tail:
    """What sentence-transformers puts behind the transformer."""

    def __init__(self, pooling: str, further: Sequence[Further]) -> None:
        """`pooling`: one of `mean` and `cls`."""
        self._pooling = pooling
        self._pool = _POOLS[pooling]
        self._further = further

    @property
    def plain(self) -> Plain | None:
        """Itself in two words; None where these do not say all."""
        names = [type(module).__name__ for module in self._further]
        return Plain(self._pooling, bool(names)) if names in ([], ["Normalize"]) else None

    def __call__(self, tokens: Tensor, layout: Layout) -> Tensor:
        """(tokens, width) to (n, dim) float32: sums and lengths are not left to fewer bits."""
        pooled = self._pool(tokens.float(), layout)
        for module in self._further:
            weight = next(module.parameters(), pooled) if isinstance(module, nn.Module) else pooled
            pooled = module({"sentence_embedding": pooled.to(weight.dtype)})["sentence_embedding"]
            pooled = pooled.float()
        return pooled


def tail_of(model: nn.Sequential) -> Tail | None:
    """The tail of a sentence-transformers model; None where it is more than a pooling of all
    tokens (or of the first) and modules that see the pooled vector alone."""
    _, *rest = model
    # By name: sentence-transformers moves its modules from version to version.
    names = [type(module).__name__ for module in rest]
    if names[:1] != ["Pooling"] or not {"Dense", "Normalize"}.issuperset(names[1:]):
        return None
    pooling: Any = rest[0]
    if str(pooling.pooling_mode) not in _POOLS or not pooling.include_prompt:
        return None
    return Tail(str(pooling.pooling_mode), rest[1:])


def plain_tail(plain: Plain) -> Tail:
    """Raises `KeyError` for a pooling that is not known here."""
    return Tail(plain.pooling, [_normalised] if plain.normalised else [])


def _normalised(features: dict[str, Tensor]) -> dict[str, Tensor]:
    pooled = features["sentence_embedding"]
    return {"sentence_embedding": torch.nn.functional.normalize(pooled, p=2, dim=1)}
