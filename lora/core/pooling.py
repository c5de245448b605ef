"""From tokens to one embedding a text, without padding; the model's further modules follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from lora.core.attention import Layout

__all__ = ["Tail", "tail_of"]

Pool = Callable[[Tensor, Layout], Tensor]


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


class Tail:
    """What sentence-transformers puts behind the transformer."""

    def __init__(self, pool: Pool, further: Sequence[nn.Module]) -> None:
        self._pool = pool
        self._further = further

    def __call__(self, tokens: Tensor, layout: Layout) -> Tensor:
        """(tokens, width) to (n, dim) float32: sums and lengths are not left to fewer bits."""
        pooled = self._pool(tokens.float(), layout)
        for module in self._further:
            weight = next(module.parameters(), pooled)
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
    pool = _POOLS.get(str(pooling.pooling_mode))
    if pool is None or not pooling.include_prompt:
        return None
    return Tail(pool, rest[1:])
