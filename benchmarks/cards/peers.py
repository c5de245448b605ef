"""PEFT on the same model and the same cards: each row its adapter, adapters that come and go."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lora.card import LoRACard
from lora.interop import export_peft

__all__ = ["Peft", "installed"]

BASE = "__base__"
"""PEFT's own word for a row without an adapter."""


def installed() -> str | None:
    """PEFT's version, if it is there."""
    try:
        import peft
    except ImportError:
        return None
    return str(peft.__version__)


class Peft:
    """A sentence-transformers model whose encoder PEFT has wrapped; one thread runs it."""

    def __init__(self, model: Path, folder: Path, first: LoRACard) -> None:
        """`folder` is where cards are written as PEFT has them."""
        from peft import PeftModel
        from sentence_transformers import SentenceTransformer

        self._folder = folder
        self._whole: Any = SentenceTransformer(str(model), device="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model: Any = PeftModel.from_pretrained(
                self._whole[0].auto_model, str(self.exported(first)), adapter_name=first.name
            )
        self.model.eval()

    def exported(self, card: LoRACard) -> Path:
        """The card as a PEFT folder; written once."""
        folder = self._folder / card.name
        if not folder.exists():
            export_peft(card, folder)
        return folder

    def load(self, card: LoRACard, *, low_memory: bool = False) -> None:
        """`load_adapter`; `low_memory` spares the random weights that it makes first."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model.load_adapter(
                str(self.exported(card)),
                adapter_name=card.name,
                torch_device="cpu",
                low_cpu_mem_usage=low_memory,
            )

    def swap(self, card: LoRACard, over: LoRACard) -> None:
        """`hotswap_adapter`: the weights of `card` under the name of `over`, which is loaded."""
        from peft.utils.hotswap import hotswap_adapter

        hotswap_adapter(
            self.model, str(self.exported(card)), adapter_name=over.name, torch_device="cpu"
        )

    def delete(self, card: LoRACard) -> None:
        """`delete_adapter`."""
        self.model.delete_adapter(card.name)

    def encode(self, texts: Sequence[str], names: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, dim) vectors in one padded batch, row `i` through the adapter `names[i]`."""
        with torch.inference_mode():
            features = self._whole[0].tokenize(list(texts))
            hidden = self.model(**features, adapter_names=list(names)).last_hidden_state
            mask = features["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            vectors: npt.NDArray[np.float32] = torch.nn.functional.normalize(pooled).numpy()
        return vectors
