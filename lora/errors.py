"""Everything that can go wrong in the craft of cards, as one tree.

LoRAError
├── ConfigError                 a setting is outside its range (also a ValueError)
├── CardError                   a card, or the file that holds it, cannot be believed
│   ├── CardNotFoundError       no such file or digest (also a FileNotFoundError)
│   ├── CardTooLargeError       more bytes than the cap allows
│   ├── CardDigestError         the bytes are not the ones that were asked for
│   ├── CardCorruptError        not a whole Arrow IPC file
│   ├── CardSchemaError         an Arrow file, but not laid out as a card
│   ├── CardInvalidError        a field breaks its pattern, its limit or another field
│   └── CardNotFiniteError      a value is NaN or infinite
├── CardMismatchError           a sound card that does not fit this model or this use
│   ├── BaseModelMismatchError  it was trained on other weights
│   ├── NoMatchingModuleError   none of its target modules exists here
│   ├── ModuleShapeError        a target module has other dimensions
│   └── CardRoleError           it does not apply to this role (query or document)
├── ModelError                  the base model
│   ├── ModelNotFoundError      neither a folder nor a model at hand
│   ├── ModelVerificationError  its weights are not the ones that are pinned
│   └── DeviceError             the device asked for is not there
├── EngineError                 a request the engine cannot serve
│   ├── UnknownCardError        a card named that is not loaded
│   ├── TooManyCardsError       more cards stacked on one text than allowed
│   └── CardBudgetError         the cards needed at once exceed the memory budget
├── InteropError                a foreign adapter file cannot be read or written
├── InstrumentError             what probe or extractor were given cannot be measured
│   ├── SameModelsError         two models have the same weights
│   └── DifferentModelsError    two models are not of one architecture
├── StoreError                  an object store does not do what it is asked for
│   ├── StoreAwayError          it does not answer, or not now: later it may
│   ├── StoreRefusedError       there is no such bucket, or it may not be used
│   ├── ObjectNotFoundError     it has no object of that digest
│   ├── ObjectDamagedError      an object is not what its name says
│   └── ObjectTooLargeError     an object has more bytes than are fetched
└── TrainingError               training cannot be done with what was given
    └── DatasetError            a training set is malformed or not the one asked for
"""

from __future__ import annotations

__all__ = [
    "BaseModelMismatchError",
    "CardBudgetError",
    "CardCorruptError",
    "CardDigestError",
    "CardError",
    "CardInvalidError",
    "CardMismatchError",
    "CardNotFiniteError",
    "CardNotFoundError",
    "CardRoleError",
    "CardSchemaError",
    "CardTooLargeError",
    "ConfigError",
    "DatasetError",
    "DeviceError",
    "DifferentModelsError",
    "EngineError",
    "InstrumentError",
    "InteropError",
    "LoRAError",
    "ModelError",
    "ModelNotFoundError",
    "ModelVerificationError",
    "ModuleShapeError",
    "NoMatchingModuleError",
    "ObjectDamagedError",
    "ObjectNotFoundError",
    "ObjectTooLargeError",
    "SameModelsError",
    "StoreAwayError",
    "StoreError",
    "StoreRefusedError",
    "TooManyCardsError",
    "TrainingError",
    "UnknownCardError",
]


class LoRAError(Exception):
    """The root of every error this package raises on purpose."""


class ConfigError(LoRAError, ValueError):
    """A setting is outside its range."""


class CardError(LoRAError):
    """A card, or the file that holds it, cannot be believed."""


class CardNotFoundError(CardError, FileNotFoundError):
    """There is no such card file."""


class CardTooLargeError(CardError):
    """The card's file has more bytes than the cap allows."""


class CardDigestError(CardError):
    """The bytes found are not the bytes that were asked for."""


class CardCorruptError(CardError):
    """The file is not a whole Arrow IPC file."""


class CardSchemaError(CardError):
    """The file is an Arrow file, but not laid out as a card."""


class CardInvalidError(CardError, ValueError):
    """A field breaks its pattern, its limit, or contradicts another field."""


class CardNotFiniteError(CardError):
    """A value of a matrix is NaN or infinite."""


class CardMismatchError(LoRAError):
    """A sound card does not fit this model or this use."""


class BaseModelMismatchError(CardMismatchError):
    """The card was trained on other base weights."""


class NoMatchingModuleError(CardMismatchError):
    """None of the modules a card targets exists in this model."""


class ModuleShapeError(CardMismatchError):
    """A module that a card targets has other dimensions here."""


class CardRoleError(CardMismatchError):
    """The card does not apply to texts of this role."""


class ModelError(LoRAError):
    """The base model cannot be used."""


class ModelNotFoundError(ModelError):
    """The model is neither a folder nor at hand under its hub id."""


class ModelVerificationError(ModelError):
    """The model's weights are not the ones that are pinned."""


class DeviceError(ModelError):
    """The device that was asked for is not there."""


class EngineError(LoRAError):
    """The engine cannot serve this request."""


class UnknownCardError(EngineError, KeyError):
    """A card was named that is not loaded."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class TooManyCardsError(EngineError, ValueError):
    """More cards were stacked on one text than allowed."""


class CardBudgetError(EngineError):
    """The cards needed at once exceed the memory budget."""


class InteropError(LoRAError):
    """An adapter in a foreign layout cannot be read or written."""


class InstrumentError(LoRAError):
    """What the probe or the extractor was given cannot be measured."""


class SameModelsError(InstrumentError):
    """Two models that should differ have the same weights."""


class DifferentModelsError(InstrumentError):
    """Two models that should be of one architecture are not."""


class StoreError(LoRAError):
    """An object store does not do what it is asked for."""


class StoreAwayError(StoreError):
    """The object store does not answer, or not now; later it may."""


class StoreRefusedError(StoreError):
    """There is no such bucket, or it may not be used; only somebody who changes that can help."""


class ObjectNotFoundError(StoreError):
    """The object store has no object of that digest."""


class ObjectDamagedError(StoreError):
    """An object's bytes do not have the digest that its name says."""


class ObjectTooLargeError(StoreError):
    """An object has more bytes than are fetched."""


class TrainingError(LoRAError):
    """Training cannot be done with what was given."""


class DatasetError(TrainingError):
    """A training set is malformed, or not the one that was asked for."""
