"""The side of a model that texts come in by: prompts, tokens, and where its weights lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["TextModel", "unpadded"]


class TextModel(ABC):
    """What a forward pass without padding needs of a model."""

    device: torch.device
    dim: int
    """Width of the embeddings."""

    def __init__(
        self, fast: Any, max_tokens: int, prompts: Mapping[str, str], pad_token: str
    ) -> None:
        """`fast`: a tokenizer in Rust that cuts and does not pad; None where there is none."""
        self.max_tokens = max_tokens
        self.prompts = dict(prompts)
        self.pad_token = pad_token
        """What fills a batch up, as it may also stand in a text."""
        self._fast = fast

    @property
    @abstractmethod
    def root(self) -> nn.Module:
        """The transformer within, whose Linear layers cards name; else the whole model."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.root.parameters()).dtype

    def token_ids(self, texts: Sequence[str], role: str) -> list[Sequence[int]]:
        """Tokens of each text with prompt and special tokens, cut to `max_tokens`.

        May be called while another thread runs the model.
        """
        if not texts:
            return []
        prompt = self.prompts.get(role, "")
        asked = [prompt + text for text in texts] if prompt else list(texts)
        if self._fast is None:
            return self._slowly(asked)
        # immutable: no lock
        return [encoding.ids for encoding in self._fast.encode_batch_fast(asked)]

    def _slowly(self, texts: list[str]) -> list[Sequence[int]]:
        raise NotImplementedError("a model without a fast tokenizer must bring its own")


def unpadded(tokenizer: Any, longest: int) -> Any:
    """A tokenizer in Rust, set to cut and not to pad."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    return tokenizer
