"""How models of the BERT family are built: one shape, whatever their modules are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from lora.layer import LoRALinear

__all__ = ["Block", "Slot", "Stack", "stack_of"]


@dataclass(frozen=True)
class Slot:
    """A Linear layer's place in the model, where a card may wrap it."""

    parent: nn.Module
    child: str
    name: str
    """Its full name, as cards target it."""

    @property
    def linear(self) -> nn.Linear:
        """The layer that is there now, out of its wrapping."""
        found = getattr(self.parent, self.child)
        return found.base if isinstance(found, LoRALinear) else found


@dataclass(frozen=True)
class Block:
    """One layer of the encoder: attention and feed-forward, each added to its input and normed."""

    query: Slot
    key: Slot
    value: Slot
    output: Slot
    attention_norm: nn.LayerNorm
    up: Slot
    down: Slot
    output_norm: nn.LayerNorm


@dataclass(frozen=True)
class Stack:
    """A whole encoder."""

    words: nn.Embedding
    positions: nn.Embedding
    first_position: int
    """The position of a text's first token: families of RoBERTa count from beyond the padding."""
    kinds: nn.Embedding | None
    """Of the token's part of a pair of texts; all tokens of one text are of the first kind."""
    norm: nn.LayerNorm
    blocks: tuple[Block, ...]
    heads: int
    gelu: bool
    """Whether the activation is the exact GELU, which some kernels fuse."""
    activation: Callable[[Tensor], Tensor]
    bias: Callable[[int], Tensor] | None
    """Added to the attention's scores of a text of so many tokens: (heads, length, length)."""


_BERT: Final = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}
_MPNET: Final = _BERT | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "output": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}
_LAYOUTS: Final = {
    "BertModel": _BERT,
    "CamembertModel": _BERT,
    "RobertaModel": _BERT,
    "XLMRobertaModel": _BERT,
    "MPNetModel": _MPNET,
}
"""By class, not by `model_type`: a model of that type may carry a decoder's parts as well."""


def stack_of(model: nn.Module) -> Stack | None:
    """The encoder within a transformers model; None for one of another architecture."""
    layout = _LAYOUTS.get(type(model).__name__)
    config: Any = getattr(model, "config", None)
    if layout is None or config is None or _unusual(config):
        return None
    try:
        return _stack(model, config, layout)
    except AttributeError:  # another version of transformers builds it differently
        return None


def _unusual(config: Any) -> bool:
    """Whether it attends otherwise than an encoder with absolute positions does."""
    absolute = getattr(config, "position_embedding_type", None) in (None, "absolute")
    decoder = getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False)
    return not absolute or bool(decoder) or getattr(config, "embedding_size", None) is not None


def _stack(model: Any, config: Any, layout: dict[str, str]) -> Stack:
    embeddings = model.embeddings
    mpnet = layout is _MPNET
    padding = getattr(embeddings, "padding_idx", None)
    return Stack(
        words=embeddings.word_embeddings,
        positions=embeddings.position_embeddings,
        first_position=0 if padding is None else padding + 1,
        kinds=None if mpnet else embeddings.token_type_embeddings,
        norm=embeddings.LayerNorm,
        blocks=tuple(
            _block(f"encoder.layer.{number}", layer, layout)
            for number, layer in enumerate(model.encoder.layer)
        ),
        heads=config.num_attention_heads,
        gelu=config.hidden_act == "gelu",
        activation=ACT2FN[config.hidden_act],
        bias=_relative(model.encoder) if mpnet else None,
    )


def _block(name: str, layer: nn.Module, layout: dict[str, str]) -> Block:
    parts: dict[str, Any] = {}
    for part, path in layout.items():
        parent, _, child = path.rpartition(".")
        if part.endswith("norm"):
            parts[part] = attrgetter(path)(layer)
        else:
            parts[part] = Slot(attrgetter(parent)(layer), child, f"{name}.{path}")
            if not isinstance(parts[part].linear, nn.Linear):
                raise AttributeError(f"{path} is no Linear layer")
    return Block(**parts)


def _relative(encoder: Any) -> Callable[[int], Tensor]:
    """MPNet's relative positions, which all layers share."""

    def bias(length: int) -> Tensor:
        weight = encoder.relative_attention_bias.weight
        like = torch.empty(1, length, 1, device=weight.device)
        found: Tensor = encoder.compute_position_bias(like)[0]
        return found.to(weight.dtype)

    return bias
