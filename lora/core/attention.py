"""Attention over texts that lie one behind another, without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Group", "Layout", "attend", "layout_of"]


class Group(NamedTuple):
    """`texts` texts of `length` tokens each, from token `start` on."""

    start: int
    texts: int
    length: int

    @property
    def end(self) -> int:
        """The token behind the last one."""
        return self.start + self.texts * self.length


class Layout(NamedTuple):
    """Where each text of a batch lies among its tokens."""

    groups: tuple[Group, ...]
    offsets: tuple[int, ...]
    """(n + 1): where each text begins, and where the last one ends."""


def layout_of(lengths: Sequence[int]) -> Layout:
    """Texts of these lengths in a row; neighbours of one length make one group."""
    offsets, groups = [0], []
    for length, same in groupby(lengths):
        count = sum(1 for _ in same)
        groups.append(Group(offsets[-1], count, length))
        offsets += range(offsets[-1] + length, offsets[-1] + count * length + 1, length)
    return Layout(tuple(groups), tuple(offsets))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    layout: Layout,
    bias: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """(tokens, width) each, to (tokens, width): every text attends to itself alone.

    Tokens behind the last text are nobody's, and become zeros.
    `bias` gives what is added to the scores of a text of so many tokens, (heads, length, length).
    """
    whole = layout.offsets[-1] == len(query)
    reduced = query.dtype in (torch.float16, torch.bfloat16)
    if query.is_cuda and bias is None and reduced and whole:
        return _packed(query, key, value, heads, layout)
    out = query.new_empty(query.shape)
    out[layout.offsets[-1] :] = 0
    for group in layout.groups:
        shape = (group.texts, group.length, heads, -1)
        rows = slice(group.start, group.end)
        # Views: (texts, heads, length, width of a head).
        q, k, v = (part[rows].view(shape).transpose(1, 2) for part in (query, key, value))
        mask = None if bias is None else bias(group.length)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out[rows].view(shape).copy_(found.transpose(1, 2))
    return out


def _packed(query: Tensor, key: Tensor, value: Tensor, heads: int, layout: Layout) -> Tensor:
    """All texts in one kernel (FlashAttention's variable lengths)."""
    from torch.nn.attention.varlen import varlen_attn  # CUDA's only, and not in older versions

    attention: Any = varlen_attn
    offsets = torch.tensor(layout.offsets, dtype=torch.int32, device=query.device)
    longest = max(group.length for group in layout.groups)
    parts = [part.contiguous().view(len(part), heads, -1) for part in (query, key, value)]
    found: Tensor = attention(*parts, offsets, offsets, longest, longest)
    return found.reshape(query.shape)
