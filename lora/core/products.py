"""The products of an encoder's Linear layers, by packed copies of the weights where those pay.

A weight as the file has it must be brought into the order that the processor multiplies in at every
product. For a lone query that takes as long as the product itself. A packed copy is made once; but
it is this process's own, where the file's mapping is shared by all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from lora.core.families import Block, Slot, Stack
from lora.core.linear import Kernel

__all__ = ["DEFAULT_PACKED", "Products"]

DEFAULT_PACKED: Final = 256 << 20
"""Bytes of weights up to which copies are made: MiniLM has 42 MB of them, a base model 340."""


class _Copy(NamedTuple):
    """One or more layers' weights in one packed matrix, and what it was made of."""

    weight: Tensor
    bias: Tensor | None
    of: tuple[tuple[Tensor, int], ...]

    def holds(self, layers: Sequence[nn.Linear]) -> bool:
        """Whether the layers' weights are what they were: a card may be merged into them."""
        return all(
            layer.weight is weight and weight._version == version
            for layer, (weight, version) in zip(layers, self.of, strict=True)
        )


class Products:
    """What `RaggedCore` multiplies by."""

    def __init__(self, stack: Stack, kernel: Kernel, packed_bytes: int = DEFAULT_PACKED) -> None:
        self.kernel = kernel
        self._copies: dict[str, _Copy] = {}
        """By the name of the first layer in it."""
        layers = [group for block in stack.blocks for group in _groups(block)]
        weights = [slot.linear.weight for group in layers for slot in group]
        self.packed_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
        """Bytes of the copies; 0 where there are none."""
        if kernel.pack is None or self.packed_bytes > packed_bytes:
            self.packed_bytes = 0
            return
        with torch.no_grad():
            for group in layers:
                self._copies[group[0].name] = _packed(group, kernel.pack)

    def attention(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of (tokens, width): (tokens, width) each, perhaps views of one."""
        slots = (block.query, block.key, block.value)
        layers = [slot.linear for slot in slots]
        copy = self._copies.get(block.query.name)
        if copy is None or not copy.holds(layers):
            query, key, value = (self.kernel.plain(x, layer.weight, layer.bias) for layer in layers)
            return query, key, value
        product = self.kernel.plain(x, copy.weight, copy.bias)
        first = layers[0].out_features
        second = first + layers[1].out_features
        return product[:, :first], product[:, first:second], product[:, second:]

    def plain(self, slot: Slot, x: Tensor) -> Tensor:
        """(tokens, in) to (tokens, out)."""
        return self.kernel.plain(x, *self._of(slot))

    def gelu(self, slot: Slot, x: Tensor) -> Tensor:
        """`plain` and its exact GELU."""
        return self.kernel.gelu(x, *self._of(slot))

    def _of(self, slot: Slot) -> tuple[Tensor, Tensor | None]:
        layer = slot.linear
        copy = self._copies.get(slot.name)
        if copy is not None and copy.holds([layer]):
            return copy.weight, copy.bias
        return layer.weight, layer.bias


def _groups(block: Block) -> tuple[tuple[Slot, ...], ...]:
    """Layers with one input go into one matrix."""
    return (block.query, block.key, block.value), (block.output,), (block.up,), (block.down,)


def _packed(group: Sequence[Slot], pack: Callable[[Tensor], Tensor]) -> _Copy:
    layers = [slot.linear for slot in group]
    weights: list[Tensor] = [layer.weight for layer in layers]
    biases = [_bias(layer) for layer in layers]
    return _Copy(
        pack(torch.cat(weights)),
        torch.cat(biases).detach(),
        tuple((weight, weight._version) for weight in weights),
    )


def _bias(layer: nn.Linear) -> Tensor:
    found: Tensor | None = getattr(layer, "bias", None)
    return layer.weight.new_zeros(layer.out_features) if found is None else found
