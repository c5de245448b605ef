"""Which forward pass a model gets: the ragged one where it is known and proves right."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import torch

from lora.core.contract import InferenceCore
from lora.core.families import stack_of
from lora.core.padded import PaddedCore
from lora.core.pooling import tail_of
from lora.core.products import DEFAULT_PACKED
from lora.core.ragged import RaggedCore
from lora.encoder import SentenceModel
from lora.manager import LoRAManager

__all__ = ["AGREEMENT", "core_for"]

AGREEMENT: Final = 0.99999
"""The least cosine between the two passes of a probe, in float32."""
_REDUCED: Final = 0.99
"""The same where numbers have fewer bits: both round, each in its own way."""

_PROBES: Final = ("", "a", "how do i reset my card?", "naïve café 東京 " * 200)
"""None, one and several words, and more than any model reads."""

log = logging.getLogger(__name__)


def core_for(
    model: SentenceModel, manager: LoRAManager, packed_bytes: int = DEFAULT_PACKED
) -> InferenceCore:
    """The ragged pass where the architecture is known, else the model's own modules.

    The choice is by the class and the settings of the model, and is then proven: texts go through
    both, in both roles. `packed_bytes` bounds the copies that make products faster.
    """
    own = PaddedCore(model, manager)
    stack, tail = stack_of(model.root), tail_of(model.model)
    if stack is None or tail is None or not model.plain_text:
        log.info("the model runs through its own modules, on padded batches")
        return own
    model.cut_to(stack.positions.num_embeddings - stack.first_position)
    probes = (*_PROBES, f"a {model.pad_token} b")
    ragged = RaggedCore(model, manager, stack, tail, packed_bytes)
    exact = model.dtype is torch.float32
    for role in ("query", "document"):
        if not _agree(own, ragged, probes, role, AGREEMENT if exact else _REDUCED):
            log.warning(
                "the pass without padding does not give what the model's own modules give; "
                "those are used"
            )
            return own
    return ragged


def _agree(
    own: InferenceCore, ragged: InferenceCore, probes: Sequence[str], role: str, least: float
) -> bool:
    ids = ragged.tokenize(probes, role)
    wanted = own.forward(probes, ids, role, ())
    try:
        found = ragged.forward(probes, ids, role, ())
    except (RuntimeError, ValueError, TypeError, AttributeError, ImportError, IndexError):
        log.debug("the pass without padding failed", exc_info=True)
        return False
    cosines = torch.nn.functional.cosine_similarity(wanted, found)
    return bool((cosines >= least).all())
