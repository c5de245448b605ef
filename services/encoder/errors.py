"""What the encoder refuses.

ServiceError
└── EncoderError
    ├── PinRefusedError
    └── SkillFileError
        └── SkillStoreError
"""

from __future__ import annotations

from services.errors import ServiceError

__all__ = ["EncoderError", "PinRefusedError", "SkillFileError", "SkillStoreError"]


class EncoderError(ServiceError):
    """An encoder cannot do what it was asked to."""


class PinRefusedError(EncoderError):
    """A card is not kept in memory for good: too little room would be left for all others."""


class SkillFileError(EncoderError):
    """A card cannot be had from the store, or does not fit the model.

    `missing` tells the two apart: a card that is not there is unknown, any other is broken.
    """

    def __init__(self, message: str, *, missing: bool) -> None:
        super().__init__(message)
        self.missing = missing


class SkillStoreError(SkillFileError):
    """The store is away, or refuses us: nothing is said of the card by that."""
