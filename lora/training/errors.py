"""What can go wrong while learning.

TrainingError
├── DatasetError      a dataset is missing, altered, malformed, or contradicts itself
├── SettingsError     a setting of the training is out of its range
└── NothingToLearn    the data holds nothing that a card could be trained or judged on
"""

from __future__ import annotations

__all__ = ["DatasetError", "NothingToLearn", "SettingsError", "TrainingError"]


class TrainingError(Exception):
    """Root of all errors of the learning craft."""


class DatasetError(TrainingError):
    """A training dataset is missing, altered, malformed, or contradicts itself."""


class SettingsError(TrainingError):
    """A setting of the training is out of its range."""


class NothingToLearn(TrainingError):
    """The data holds nothing that a card could be trained or judged on."""
