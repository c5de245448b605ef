"""How models of the BERT family are built: one shape, whatever their modules are called."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora.layer import LoRALinear

__all__ = ["Block", "Shape", "Slot", "Stack", "shape_of", "stack_of"]


class Shape(msgspec.Struct, frozen=True):
    """What a model's weights do not say about how it is built."""

    layout: str
    heads: int
    activation: str
    first_position: int
    """The position of a text's first token: families of RoBERTa count from beyond the padding."""
    epsilon: float
    """Of the layer norms."""


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
_FARTHEST: Final = 128
"""MPNet's tokens that are this far apart, or farther, share a bucket."""

_LAYOUTS: Final = {"bert": _BERT, "mpnet": _MPNET}
_CLASSES: Final = {
    "BertModel": "bert",
    "CamembertModel": "bert",
    "RobertaModel": "bert",
    "XLMRobertaModel": "bert",
    "MPNetModel": "mpnet",
}
"""By class, not by `model_type`: a model of that type may carry a decoder's parts as well."""

_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def shape_of(model: nn.Module) -> Shape | None:
    """The shape of a transformers model; None for one of another architecture."""
    layout = _CLASSES.get(type(model).__name__)
    config: Any = getattr(model, "config", None)
    if layout is None or config is None or _unusual(config):
        return None
    padding = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    return Shape(
        layout=layout,
        heads=config.num_attention_heads,
        activation=str(config.hidden_act),
        first_position=0 if padding is None else padding + 1,
        epsilon=config.layer_norm_eps,
    )


def stack_of(model: nn.Module, shape: Shape) -> Stack | None:
    """The encoder within a model of this shape; None where its modules are not those expected."""
    if shape.activation not in _ACTIVATIONS:
        return None
    try:
        return _stack(model, shape)
    except AttributeError:  # another version of transformers builds it differently
        return None


def _unusual(config: Any) -> bool:
    """Whether it attends otherwise than an encoder with absolute positions does."""
    absolute = getattr(config, "position_embedding_type", None) in (None, "absolute")
    decoder = getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False)
    return not absolute or bool(decoder) or getattr(config, "embedding_size", None) is not None


def _stack(model: Any, shape: Shape) -> Stack:
    embeddings = model.embeddings
    mpnet = shape.layout == "mpnet"
    return Stack(
        words=embeddings.word_embeddings,
        positions=embeddings.position_embeddings,
        first_position=shape.first_position,
        kinds=None if mpnet else embeddings.token_type_embeddings,
        norm=embeddings.LayerNorm,
        blocks=tuple(
            _block(f"encoder.layer.{number}", layer, _LAYOUTS[shape.layout])
            for number, layer in enumerate(model.encoder.layer)
        ),
        heads=shape.heads,
        gelu=shape.activation == "gelu",
        activation=_ACTIVATIONS[shape.activation],
        bias=_relative(model.encoder.relative_attention_bias) if mpnet else None,
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


def _relative(table: nn.Embedding) -> Callable[[int], Tensor]:
    """MPNet's relative positions, which all layers share; buckets as T5 has them
    (arXiv 1910.10683, section 2.1): half for each direction, exact up to a half of those, then
    logarithmic up to a distance of 128.
    """

    def bias(length: int) -> Tensor:
        weight = table.weight
        buckets = weight.shape[0] // 2
        exact = buckets // 2
        places = torch.arange(length)
        apart = places[None, :] - places[:, None]
        distance = apart.abs()
        far = (distance.clamp(min=1).float() / exact).log() / math.log(_FARTHEST / exact)
        large = (exact + (far * (buckets - exact)).long()).clamp(max=buckets - 1)
        bucket = torch.where(distance < exact, distance, large) + buckets * (apart > 0)
        return F.embedding(bucket.to(weight.device), weight).permute(2, 0, 1).contiguous()

    return bias
