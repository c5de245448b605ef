"""Two models beside each other: whether they may be compared, and what differs but in layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lora.adapter import FloatArray
from lora.checkpoint import Checkpoint, family
from lora.errors import DifferentModelsError, InstrumentError
from lora.extraction import LeftOut

__all__ = [
    "check_architectures",
    "check_finite",
    "incomparable",
    "notes",
    "other_changes",
    "sum_of_squares",
]


def check_architectures(base: Checkpoint, tuned: Checkpoint) -> None:
    """Raise `DifferentModelsError` unless both are the same kind of model, of the same size."""
    labels = ("model type", "hidden size", "number of layers")
    for label, ours, theirs in zip(labels, base.architecture, tuned.architecture, strict=True):
        if ours != theirs:
            raise DifferentModelsError(
                f"{base.base_model.id} and {tuned.base_model.id} are not of one architecture: "
                f"their {label} is {ours} and {theirs}"
            )
    if not any(base.linears[m] == tuned.linears.get(m) for m in base.linears):
        raise DifferentModelsError(
            f"{base.base_model.id} and {tuned.base_model.id} have no Linear layer of one shape "
            "in common"
        )


def incomparable(base: Checkpoint, tuned: Checkpoint, module: str) -> LeftOut | None:
    """Why the layer cannot be compared, where it cannot."""
    name = f"{module}.weight"
    if not tuned.shape(name):
        reason = "only in the base model"
    elif tuned.shape(name) != base.shape(name):
        reason = "another shape"
    elif not (base.is_float(name) and tuned.is_float(name)):
        reason = "not stored as floating-point numbers"
    else:
        return None
    return LeftOut(name, "Linear layers", reason, None)


def other_changes(base: Checkpoint, tuned: Checkpoint) -> Iterator[LeftOut]:
    """What differs beside the weights of Linear layers."""
    for name in base.others:
        if not base.is_float(name):
            continue  # positions and the like
        kind, shape = family(name), tuned.shape(name)
        if name not in tuned.others:
            yield LeftOut(name, kind, "only in the base model", None)
        elif shape != base.shape(name):
            yield LeftOut(name, kind, "another shape", None)
        elif base.is_float(name) and tuned.is_float(name):
            pairs = zip(base.rows(name), tuned.rows(name), strict=True)
            energy = sum(sum_of_squares(after - before) for before, after in pairs)
            if not np.isfinite(energy):
                raise InstrumentError(f"the values of {name} hold NaN or infinity")
            if energy:
                yield LeftOut(name, kind, "not a Linear layer's weight", energy)
    known = {*base.others, *(f"{module}.weight" for module in base.linears)}
    for name in (*(f"{module}.weight" for module in tuned.linears), *tuned.others):
        if name not in known:
            kind = (
                "Linear layers" if name.removesuffix(".weight") in tuned.linears else family(name)
            )
            yield LeftOut(name, kind, "only in the tuned model", None)


def notes(base: Checkpoint, tuned: Checkpoint) -> Iterator[str]:
    """Differences that no weight shows, one sentence each."""
    ours, theirs = base.pooling, tuned.pooling
    if ours and theirs and _modes(ours) != _modes(theirs):
        yield (
            "The two models pool or end differently; the card acts before the base model's own "
            "pooling, so its vectors differ from the tuned model's."
        )


def _modes(pooling: list[dict[str, Any]]) -> list[tuple[str, frozenset[str]]]:
    """Kinds of the modules with their pooling modes, whichever way a folder writes these."""
    return [
        (
            str(part["kind"]),
            frozenset(
                (str(value) if key == "pooling_mode" else key[len("pooling_mode_") :]).removesuffix(
                    "_tokens"
                )
                for key, value in part.items()
                if key != "kind"
            ),
        )
        for part in pooling
    ]


def check_finite(matrix: FloatArray, module: str) -> None:
    """Raise `InstrumentError` where a weight or its change holds NaN or infinity."""
    if not np.isfinite(matrix).all():
        raise InstrumentError(f"the weights of {module} hold NaN or infinity")


def sum_of_squares(change: FloatArray) -> float:
    """‖M‖² of a tensor of any shape, in float64."""
    flat = change.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))
