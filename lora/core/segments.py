"""The cards' part of a Linear layer: low-rank products added to chosen tokens of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lora.layer import Segment, Weights

__all__ = ["Acting", "Stretch", "acting", "add", "add_grouped"]

_ALIGNED: Final = 8
"""Ranks are filled up to a multiple of this for the grouped kernel, which wants 16 bytes."""


class Stretch(NamedTuple):
    """Tokens `start` to `end` (not included) go through an adapter."""

    start: int
    end: int
    weights: Weights


Acting = Mapping[str, Sequence[Stretch]]
"""What acts on each layer, by its name."""


def acting(
    segments: Iterable[Segment],
    cards: Mapping[str, Mapping[str, Weights]],
    offsets: Sequence[int],
) -> Acting:
    """Of segments over rows, whose tokens begin at `offsets`, the stretches of each layer."""
    found: dict[str, list[Stretch]] = {}
    for first, last, key in segments:
        for name, weights in cards[key].items():
            found.setdefault(name, []).append(Stretch(offsets[first], offsets[last], weights))
    return found


def add(y: Tensor, x: Tensor, stretches: Sequence[Stretch]) -> None:
    """Add each stretch's `(x @ A) @ B · scale` to `y` (tokens, out), in place.

    On CUDA all that do not overlap are one product, so that no loop grows with the cards.
    """
    reduced = y.dtype in (torch.float16, torch.bfloat16)
    if y.is_cuda and reduced and len(stretches) > 1 and hasattr(F, "grouped_mm"):
        for layer in _layers(stretches):
            add_grouped(y, x, layer)
        return
    for start, end, weights in stretches:
        y[start:end].addmm_(x[start:end] @ weights.a, weights.b, alpha=weights.scale)


def _layers(stretches: Sequence[Stretch]) -> list[list[Stretch]]:
    """Split into as few as can be in each of which none overlap: one, or as many as cards stack."""
    layers: list[list[Stretch]] = []
    for stretch in sorted(stretches, key=lambda one: (one.start, one.end)):
        for layer in layers:
            if layer[-1].end <= stretch.start:
                layer.append(stretch)
                break
        else:
            layers.append([stretch])
    return layers


def add_grouped(y: Tensor, x: Tensor, stretches: Sequence[Stretch]) -> None:
    """`add` for stretches in order that do not overlap, by two grouped matrix products.

    Adapters of lower rank than the greatest are filled up with zeros.
    """
    product: Any = F.grouped_mm
    rank = max(stretch.weights.a.shape[1] for stretch in stretches)
    rank += -rank % _ALIGNED
    downs, ups = zip(*(_filled(stretch.weights, rank) for stretch in stretches), strict=True)
    ends = torch.tensor(
        list(accumulate(stretch.end - stretch.start for stretch in stretches)),
        dtype=torch.int32,
        device=y.device,
    )
    whole = all(one.end == other.start for one, other in pairwise(stretches))
    rows: Any = slice(stretches[0].start, stretches[-1].end)
    if not whole:
        rows = torch.cat([torch.arange(one.start, one.end, device=y.device) for one in stretches])
    low: Tensor = product(x[rows], torch.stack(downs), offs=ends)
    y[rows] += product(low, torch.stack(ups), offs=ends)


def _filled(weights: Weights, rank: int) -> tuple[Tensor, Tensor]:
    more = rank - weights.a.shape[1]
    return F.pad(weights.a, (0, more)), F.pad(weights.b * weights.scale, (0, 0, 0, more))
