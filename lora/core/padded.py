"""The forward pass through the model's own modules, on a padded batch: for every architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lora.core.contract import InferenceCore, TokenIds
from lora.encoder import SentenceModel
from lora.layer import Segment
from lora.manager import LoRAManager

__all__ = ["PaddedCore"]


class PaddedCore(InferenceCore):
    """With no card in a batch, bit for bit what sentence-transformers gives for that batch."""

    padded = True

    def __init__(self, model: SentenceModel, manager: LoRAManager) -> None:
        super().__init__(model, manager)
        self._own = model

    def forward(
        self,
        texts: Sequence[str],
        ids: Sequence[TokenIds],
        role: str,
        segments: Sequence[Segment],
    ) -> Tensor:
        with torch.inference_mode(), self._manager.rows(segments):
            features = self._own.features(texts, role)
            return self._own.forward(features, role).float()
