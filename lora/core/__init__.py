"""The forward pass: without padding where the architecture is known, else by the model's own."""

from lora.core.contract import InferenceCore, TokenIds
from lora.core.noted import Notes
from lora.core.padded import PaddedCore
from lora.core.products import DEFAULT_PACKED
from lora.core.ragged import RaggedCore
from lora.core.select import core_for

__all__ = [
    "DEFAULT_PACKED",
    "InferenceCore",
    "Notes",
    "PaddedCore",
    "RaggedCore",
    "TokenIds",
    "core_for",
]
