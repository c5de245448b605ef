"""What can go wrong while learning; leaves of the tree in `lora.errors`.

LoRAError
├── ConfigError         a setting of the training is out of its range
└── TrainingError       training cannot be done with what was given
    ├── DatasetError    a dataset is missing, altered, malformed, or contradicts itself
    └── NothingToLearn  the data holds nothing that a card could be trained or judged on
"""

from __future__ import annotations

from lora.errors import ConfigError, DatasetError, TrainingError

__all__ = ["ConfigError", "DatasetError", "NothingToLearn", "TrainingError"]


class NothingToLearn(TrainingError):
    """The data holds nothing that a card could be trained or judged on."""
