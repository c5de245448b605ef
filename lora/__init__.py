"""The craft of skill cards: their format, the layer that applies them, the engine that serves them.

Importing this package loads neither torch nor the model: names are fetched when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora.adapter import Adapter
    from lora.card import BaseModel, LoRACard, LoRAFormat
    from lora.config import LoRAConfig
    from lora.engine import ArrowEngine
    from lora.errors import LoRAError
    from lora.extractor import LoRAExtractor
    from lora.head import bend
    from lora.layer import LoRALinear
    from lora.manager import LoRAManager
    from lora.probe import WeightMapProbe
    from lora.router import LoRARouter, Match
    from lora.store import CardStore
    from lora.training.trainer import LoRATrainer

__all__ = [
    "Adapter",
    "ArrowEngine",
    "BaseModel",
    "CardStore",
    "LoRACard",
    "LoRAConfig",
    "LoRAError",
    "LoRAExtractor",
    "LoRAFormat",
    "LoRALinear",
    "LoRAManager",
    "LoRARouter",
    "LoRATrainer",
    "Match",
    "WeightMapProbe",
    "bend",
]

_HOME = {
    "Adapter": "lora.adapter",
    "ArrowEngine": "lora.engine",
    "BaseModel": "lora.card",
    "CardStore": "lora.store",
    "LoRACard": "lora.card",
    "LoRAConfig": "lora.config",
    "LoRAError": "lora.errors",
    "LoRAExtractor": "lora.extractor",
    "LoRAFormat": "lora.card",
    "LoRALinear": "lora.layer",
    "LoRAManager": "lora.manager",
    "LoRARouter": "lora.router",
    "LoRATrainer": "lora.training.trainer",
    "Match": "lora.router",
    "WeightMapProbe": "lora.probe",
    "bend": "lora.head",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'lora' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
