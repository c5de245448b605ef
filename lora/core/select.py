"""Which forward pass a model gets: the ragged one where it is known and proves right."""

from __future__ import annotations

import logging

from lora.core.contract import InferenceCore
from lora.core.families import shape_of, stack_of
from lora.core.padded import PaddedCore
from lora.core.pooling import tail_of
from lora.core.products import DEFAULT_PACKED
from lora.core.proof import ROLES, agrees, probes_for
from lora.core.ragged import RaggedCore
from lora.encoder import SentenceModel
from lora.manager import LoRAManager

__all__ = ["core_for"]

log = logging.getLogger(__name__)


def core_for(
    model: SentenceModel, manager: LoRAManager, packed_bytes: int = DEFAULT_PACKED
) -> InferenceCore:
    """The ragged pass where the architecture is known, else the model's own modules.

    The choice is by the class and the settings of the model, and is then proven: texts go through
    both, in both roles. `packed_bytes` bounds the copies that make products faster.
    """
    own = PaddedCore(model, manager)
    shape, tail = shape_of(model.root), tail_of(model.model)
    stack = None if shape is None else stack_of(model.root, shape)
    if stack is None or tail is None or not model.plain_text:
        log.info("the model runs through its own modules, on padded batches")
        return own
    model.cut_to(stack.positions.num_embeddings - stack.first_position)
    probes = probes_for(model)
    ragged = RaggedCore(model, manager, stack, tail, packed_bytes)
    for role in ROLES:
        wanted = own.forward(probes, ragged.tokenize(probes, role), role, ())
        if not agrees(ragged, probes, role, wanted):
            log.warning(
                "the pass without padding does not give what the model's own modules give; "
                "those are used"
            )
            return own
    return ragged
