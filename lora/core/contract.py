"""What the engine asks of a forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lora.layer import Segment
from lora.manager import LoRAManager
from lora.text import TextModel

__all__ = ["InferenceCore", "Segment", "TokenIds"]

TokenIds = Sequence[int]
"""The tokens of one text, with its prompt and special tokens, cut to what the model reads."""


class InferenceCore(ABC):
    """One model's texts to embeddings, with the cards that its manager holds.

    `tokenize` may be called from any thread, at any time. `forward` is for one thread at a time.
    """

    padded: bool
    """Whether a batch costs as if every text were as long as its longest."""

    def __init__(self, model: TextModel, manager: LoRAManager) -> None:
        self._model = model
        self._manager = manager

    @property
    def exact(self) -> bool:
        """Whether the model computes in float32."""
        return self._model.dtype is torch.float32

    def tokenize(self, texts: Sequence[str], role: str) -> list[TokenIds]:
        """The tokens of each text in a role."""
        return self._model.token_ids(texts, role)

    @abstractmethod
    def forward(
        self,
        texts: Sequence[str],
        ids: Sequence[TokenIds],
        role: str,
        segments: Sequence[Segment],
    ) -> Tensor:
        """(n, dim) float32 embeddings on the model's device; `segments` are over the n rows.

        `ids` are what `tokenize` gave for `texts`. Rows of one length should lie together.
        """
