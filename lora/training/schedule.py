"""Ranks that grow with what there is to learn from, and adapters that grow with them.

| query groups | body | head |
| --- | --- | --- |
| fewer than 1,024 | 8 | 128 |
| 1,024 to 4,095 | 8 | 256 |
| 4,096 to 16,383 | 16 | 384 |
| from 16,384 on | 32 | 512 |

A head never has a larger rank than passages or dimensions: that is as free as it can be. Between
versions of one skill a rank never shrinks: what a version has learnt fits into the next one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lora.adapter import Adapter
from lora.training.errors import ConfigError

__all__ = ["body_rank", "head_rank", "padded", "scheduled"]

_STEPS = ((0, 8, 128), (1024, 8, 256), (4096, 16, 384), (16384, 32, 512))
"""Query groups from which on, rank of the body, rank of the head."""


def body_rank(groups: int) -> int:
    """The rank of a body's adapters by the number of query groups."""
    return max(body for least, body, _ in _STEPS if groups >= least)


def head_rank(groups: int) -> int:
    """The largest rank of a head by the number of query groups."""
    return max(head for least, _, head in _STEPS if groups >= least)


def scheduled(rank: int, before: Mapping[str, Adapter], *, was: int) -> dict[str, int]:
    """Rank by module for the version after `before`: never smaller than it was.

    `was` is the schedule's rank for the data that `before` learnt from. Ranks that differ were
    shared out under a budget: they keep their proportions, and grow as much as the schedule does.
    """
    if len({adapter.rank for adapter in before.values()}) < 2:
        return {name: max(rank, adapter.rank) for name, adapter in before.items()}
    times = max(1, rank // was)
    return {
        name: max(adapter.rank, min(times * adapter.rank, adapter.inputs, adapter.outputs))
        for name, adapter in before.items()
    }


def padded(adapter: Adapter, rank: int, seed: int = 0) -> Adapter:
    """The same function as an adapter of this rank, its alpha / rank kept; float32.

    New columns of A are Kaiming-uniform, as in a fresh adapter; new rows of B are zero. Raises
    `ConfigError` for a rank below the adapter's.
    """
    more = rank - adapter.rank
    if more < 0:
        raise ConfigError(f"an adapter of rank {adapter.rank} does not fit into rank {rank}")
    a, b = adapter.factors
    if not more:
        return Adapter(a, b, rank, adapter.alpha)
    bound = adapter.inputs**-0.5
    drawn = np.random.default_rng(seed).uniform(-bound, bound, (adapter.inputs, more))
    wide: npt.NDArray[np.float32] = np.concatenate([a, drawn.astype(np.float32)], axis=1)
    tall = np.concatenate([b, np.zeros((more, adapter.outputs), np.float32)])
    return Adapter(wide, tall, rank, adapter.alpha * rank / adapter.rank)
