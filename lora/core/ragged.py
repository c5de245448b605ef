"""The forward pass of the BERT family without padding: all tokens of a batch in one matrix.

    texts        "reset card"        "why was i charged twice"
    tokens   [CLS reset card SEP | CLS why was i charged twice SEP]   (tokens, width)

Every Linear layer is one product over all tokens; only attention tells the texts apart. A card acts
on a stretch of rows.

BERT: arXiv 1810.04805. Attention over packed texts: arXiv 2307.08691, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate, chain
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from lora.core.attention import Layout, attend, layout_of
from lora.core.contract import InferenceCore, TokenIds
from lora.core.families import Block, Slot, Stack
from lora.core.linear import kernel_for
from lora.core.pooling import Tail
from lora.core.products import DEFAULT_PACKED, Products
from lora.core.segments import Acting, acting, add
from lora.layer import Segment
from lora.manager import LoRAManager
from lora.text import TextModel

__all__ = ["RaggedCore"]

NOTHING: Final[Acting] = {}


class RaggedCore(InferenceCore):
    """Embeddings as the model's own modules give them, but for rounding."""

    padded = False

    def __init__(
        self,
        model: TextModel,
        manager: LoRAManager,
        stack: Stack,
        tail: Tail,
        packed_bytes: int = DEFAULT_PACKED,
    ) -> None:
        """Weights of Linear layers, up to `packed_bytes` in all, are copied to multiply faster."""
        super().__init__(model, manager)
        self._stack = stack
        self._tail = tail
        weight = stack.words.weight
        kernel = kernel_for(weight.device.type, weight.dtype, weight.shape[1])
        self.products = Products(stack, kernel, packed_bytes)
        """What multiplies; chosen by trial on this machine."""

    def forward(
        self,
        texts: Sequence[str],
        ids: Sequence[TokenIds],
        role: str,
        segments: Sequence[Segment],
    ) -> Tensor:
        del texts, role  # all that counts of them is in the tokens
        with torch.inference_mode():
            layout = layout_of([len(row) for row in ids])
            cards = self._manager.weights_of(segments)
            tokens = self._run(ids, layout, acting(segments, cards, layout.offsets))
            return self._tail(tokens, layout)

    def _run(self, ids: Sequence[TokenIds], layout: Layout, cards: Acting) -> Tensor:
        stack = self._stack
        x = self._embed(ids, layout)
        bias = None if stack.bias is None else cache(stack.bias)
        for block in stack.blocks:
            query, key, value = self._attention(block, x, cards)
            context = attend(query, key, value, stack.heads, layout, bias)
            x = _normed(self._linear(block.output, context, cards).add_(x), block.attention_norm)
            inner = self._activated(block, x, cards)
            x = _normed(self._linear(block.down, inner, cards).add_(x), block.output_norm)
        return x

    def _embed(self, ids: Sequence[TokenIds], layout: Layout) -> Tensor:
        stack = self._stack
        device = stack.words.weight.device
        flat = list(chain.from_iterable(ids))
        # Rows that belong to no text: nothing looks at them.
        flat += [0] * (-len(flat) % self.products.kernel.step)
        x = F.embedding(torch.tensor(flat, device=device), stack.words.weight)
        if stack.kinds is not None:
            x += stack.kinds.weight[0]
        first = stack.first_position
        if first and first - 1 in flat[: layout.offsets[-1]]:
            places = chain.from_iterable(_counted(row, first - 1) for row in ids)
            x[: layout.offsets[-1]] += stack.positions.weight[list(places)]
            return _normed(x, stack.norm)
        for group in layout.groups:
            positions = stack.positions.weight[first : first + group.length]
            x[group.start : group.end].view(group.texts, group.length, -1).add_(positions)
        return _normed(x, stack.norm)

    def _attention(self, block: Block, x: Tensor, cards: Acting) -> tuple[Tensor, Tensor, Tensor]:
        made = self.products.attention(block, x)
        for slot, part in zip((block.query, block.key, block.value), made, strict=True):
            stretches = cards.get(slot.name)
            if stretches:
                add(part, x, stretches)
        return made

    def _linear(self, slot: Slot, x: Tensor, cards: Acting) -> Tensor:
        y = self.products.plain(slot, x)
        stretches = cards.get(slot.name)
        if stretches:
            add(y, x, stretches)
        return y

    def _activated(self, block: Block, x: Tensor, cards: Acting) -> Tensor:
        """The wide layer of the feed-forward part, with its activation."""
        if self._stack.gelu and block.up.name not in cards:
            return self.products.gelu(block.up, x)
        return self._stack.activation(self._linear(block.up, x, cards))


def _counted(ids: TokenIds, padding: int) -> list[int]:
    """Positions as RoBERTa's kin count them: padding, which a text may hold, has one of its own."""
    counted = list(accumulate((token != padding for token in ids), initial=padding))[1:]
    return [
        padding if token == padding else place for token, place in zip(ids, counted, strict=True)
    ]


def _normed(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
