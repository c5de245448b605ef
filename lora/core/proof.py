"""The proof that a pass gives what the model's own modules give: texts, and how near is enough."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from lora.core.contract import InferenceCore
from lora.text import TextModel

__all__ = ["AGREEMENT", "ROLES", "agrees", "probes_for"]

AGREEMENT: Final = 0.99999
"""The least cosine between the two passes of a probe, in float32."""
_REDUCED: Final = 0.99
"""The same where numbers have fewer bits: both round, each in its own way."""

_PROBES: Final = (
    "",
    "a",
    "How do I reset my CARD?",
    "naïve café 東京 ß İstanbul " * 200,
    "-- 3.5 % of it; e.g. <b>foo_bar(x)</b>\n\tand\u200b so on…",
)
"""None, one and several words, letters that tokenizers treat each in its own way, and more than any
model reads."""

ROLES: Final = ("query", "document")

log = logging.getLogger(__name__)


def probes_for(model: TextModel) -> tuple[str, ...]:
    """The texts to prove a model's pass by."""
    return (*_PROBES, f"a {model.pad_token} b")


def agrees(core: InferenceCore, probes: Sequence[str], role: str, wanted: Tensor) -> bool:
    """Whether `core` gives the vectors `wanted` (n, dim) of these texts, but for rounding."""
    least = AGREEMENT if core.exact else _REDUCED
    try:
        found = core.forward(probes, core.tokenize(probes, role), role, ())
    except (RuntimeError, ValueError, TypeError, AttributeError, ImportError, IndexError):
        log.debug("the pass without padding failed", exc_info=True)
        return False
    if found.shape != wanted.shape:
        return False
    cosines = torch.nn.functional.cosine_similarity(wanted, found)
    return bool((cosines >= least).all())
