"""Attention over texts that lie one behind another, without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Group", "Layout", "attend", "layout_of"]


_LANES: Final = 16
_LEFT: Final = 6
"""Measured: with 30 tokens a text takes two thirds of the time, with 36 as long."""
_WIDE: Final = torch.backends.cpu.get_cpu_capability() == "AVX512"


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
    found = []
    for group in layout.groups:
        apart = not query.is_cuda and not reduced and _is_apart(group.length)
        shape = (heads,) if apart and group.texts == 1 else (group.texts, heads)
        q, k, v = (_rows(part, group, shape) for part in (query, key, value))
        mask = None if bias is None else bias(group.length)
        attention = _by_products if apart else F.scaled_dot_product_attention
        context = attention(q, k, v, mask).transpose(-3, -2)
        found.append(context.reshape(group.end - group.start, -1))
    if not whole:
        found.append(query.new_zeros(len(query) - layout.offsets[-1], query.shape[1]))
    return torch.cat(found)


def _rows(part: Tensor, group: Group, shape: tuple[int, ...]) -> Tensor:
    """A view of a group's tokens: (heads, length, width of a head), texts before that where `shape`
    has them. One step instead of three: short texts take hardly longer than the way to them."""
    row, width = part.stride(0), part.shape[1] // shape[-1]
    steps = (group.length * row, width, row, 1)
    return part.as_strided(
        (*shape, group.length, width),
        steps[-len(shape) - 2 :],
        part.storage_offset() + group.start * row,
    )


def _is_apart(length: int) -> bool:
    """Whether `_by_products` is faster: PyTorch's own kernel takes the scores of a token `_LANES`
    at a time, where the processor can, and those that are left one by one."""
    return _WIDE and length > _LANES and length % _LANES >= _LEFT


def _by_products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    scores = query @ key.transpose(-2, -1)
    scores *= query.shape[-1] ** -0.5
    if bias is not None:
        scores += bias
    return torch.softmax(scores, -1) @ value


def _packed(query: Tensor, key: Tensor, value: Tensor, heads: int, layout: Layout) -> Tensor:
    """All texts in one kernel (FlashAttention's variable lengths)."""
    from torch.nn.attention.varlen import varlen_attn  # CUDA's only, and not in older versions

    attention: Any = varlen_attn
    offsets = torch.tensor(layout.offsets, dtype=torch.int32, device=query.device)
    longest = max(group.length for group in layout.groups)
    parts = [part.contiguous().view(len(part), heads, -1) for part in (query, key, value)]
    found: Tensor = attention(*parts, offsets, offsets, longest, longest)
    return found.reshape(query.shape)
