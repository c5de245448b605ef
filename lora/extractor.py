"""Cards from weights that are there already: what training added to a model, or a part of one.

A change of a Linear layer's weight, `Δ = W_tuned − W_base` (out, in), is approximated by its
leading singular triples, the best of its rank (Eckart and Young, 1936), and factored so that the
card adds it once at its own alpha / rank (`LowRank.adapter`). Layers are read, decomposed and let
go one by one: two weights are in memory at a time, and the card.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from lora.adapter import DTYPES, MAX_ALPHA, MAX_RANK, Adapter, FloatArray
from lora.card import DEFAULT_MAX_BYTES, BaseModel, LoRACard
from lora.checkpoint import Checkpoint
from lora.comparison import (
    check_architectures,
    check_finite,
    incomparable,
    notes,
    other_changes,
    sum_of_squares,
)
from lora.errors import ConfigError, InstrumentError, SameModelsError
from lora.extraction import ExtractedModule, Extraction, ExtractionReport, LeftOut
from lora.lowrank import LowRank, rounding_floor, truncated_svd
from lora.matching import select_targets

__all__ = ["Extraction", "ExtractionReport", "LoRAExtractor", "Progress"]

EXTRACTOR: Final = "consonance-extractor/1"

Progress = Callable[[int, int, str], None]
"""Called with layers done, layers in all, and the layer's name."""

Use = Literal["amplify", "remove"]


@dataclass(frozen=True, kw_only=True)
class LoRAExtractor:
    """Truncated SVD with one choice of rank; contradictions raise `ConfigError`.

    made = LoRAExtractor(energy=0.9).delta("base-model", "tuned-model", name="bank")
    LoRAFormat.write(made.card, "bank.lora.arrow")
    """

    rank: int | None = None
    """Largest rank of a layer, 1 to 4096; None: no bound but `energy`."""

    energy: float | None = None
    """Per layer, keep the smallest rank that holds this share of Σσ², above 0 to 1; None: the rank
    alone decides, or, where that is None too, 0.9. At 1 all is kept that is not rounding."""

    alpha: float | None = None
    """Alpha of every layer; None: each layer's own rank, so that its scale is 1. The card does the
    same in either case."""

    targets: tuple[str, ...] = ()
    """Linear layers by exact name or suffix; empty: all."""

    dtype: str = "float32"
    """How the card's matrices are stored: float32, float16, bfloat16 or int8."""

    max_bytes: int = DEFAULT_MAX_BYTES
    """Largest card, in bytes of its matrices."""

    def __post_init__(self) -> None:
        if self.rank is not None and not 1 <= self.rank <= MAX_RANK:
            raise ConfigError(f"rank must be from 1 to {MAX_RANK}, not {self.rank}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ConfigError(f"energy must be above 0 and at most 1, not {self.energy}")
        if self.alpha is not None and not 0 < self.alpha <= MAX_ALPHA:
            raise ConfigError(f"alpha must be above 0 and at most {MAX_ALPHA:g}, not {self.alpha}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        object.__setattr__(self, "targets", tuple(self.targets))

    def delta(
        self,
        base: str | Path | None,
        tuned: str | Path,
        *,
        name: str,
        progress: Progress | None = None,
        **about: Any,
    ) -> Extraction:
        """The card with which `base` does what `tuned` does, as far as its rank reaches.

        Args:
            base: a folder, a hub id, or None for the default model.
            tuned: the same model after training: a sentence-transformers or transformers folder.
            about: further fields of `LoRACard`; `applies_to` is `("query",)` unless given.

        Raises:
            ModelError: one of them cannot be found or read.
            DifferentModelsError: they are not of one architecture.
            SameModelsError: no weight differs by more than rounding.
            InstrumentError: what differs is nothing that a card could hold, or too much for one.
        """
        started = time.monotonic()
        before, after = Checkpoint(base), Checkpoint(tuned)
        check_architectures(before, after)
        chosen = select_targets(self.targets, before.linears) if self.targets else before.linears
        rest = [one for module in before.linears if (one := incomparable(before, after, module))]
        unfit = {one.name for one in rest}
        common = [module for module in before.linears if f"{module}.weight" not in unfit]
        room = _Room(self.max_bytes)
        adapters: dict[str, Adapter] = {}
        modules: list[ExtractedModule] = []
        for number, module in enumerate(common):
            if progress is not None:
                progress(number, len(common), module)
            weight, trained = before.weight(module), after.weight(module)
            change = trained - weight
            if not change.any():
                continue
            check_finite(change, module)
            name_of = f"{module}.weight"
            if module not in chosen:
                energy = sum_of_squares(change)
                rest.append(LeftOut(name_of, "Linear layers", "not among the targets", energy))
                continue
            unit = max(before.roundoff(name_of), after.roundoff(name_of))
            larger = np.maximum(np.abs(weight), np.abs(trained))
            found = self._leading(change, rounding_floor(larger, unit))
            if not found.rank:
                rest.append(LeftOut(name_of, "Linear layers", "no more than rounding", found.total))
                continue
            adapters[module] = self._adapter(found)
            room.take(adapters[module])
            size = sum_of_squares(weight)
            ratio = float(np.sqrt(found.total / size)) if size else 0.0
            modules.append(_module(module, adapters[module], found, ratio))
        rest.extend(other_changes(before, after))
        if progress is not None:
            progress(len(common), len(common), "")
        _check_changed(before, after, modules, rest)
        report = ExtractionReport(
            "delta",
            before.base_model.id,
            after.base_model.id,
            tuple(modules),
            tuple(rest),
            tuple(notes(before, after)),
            time.monotonic() - started,
        )
        about.setdefault(
            "description",
            f"What training added to {before.base_model.id}, from {after.base_model.id}.",
        )
        about["extra"] = {
            "extracted": "delta",
            "tuned": after.base_model.id,
            "tuned_sha256": after.base_model.sha256,
            **(about.get("extra") or {}),
        }
        return Extraction(
            _card(name, before.base_model, before.dim, adapters, report, about), report
        )

    def direct(
        self,
        model: str | Path | None,
        *,
        name: str,
        use: Use = "amplify",
        strength: float = 1.0,
        progress: Progress | None = None,
        **about: Any,
    ) -> Extraction:
        """A card from the leading part `P` of a model's own weights, for the same model.

        `use` says what applying the card does, by `strength` (above 0): `amplify` gives
        `W + strength · P`, `remove` gives `W − strength · P`, at 1 the model without the part.

        Raises:
            ModelError: the model cannot be found or read.
            InstrumentError: the card would be too large, or the weights are not finite.
        """
        if use not in ("amplify", "remove"):
            raise ConfigError(f"use must be 'amplify' or 'remove', not {use!r}")
        if not (np.isfinite(strength) and strength > 0):
            raise ConfigError(f"strength must be above 0 and finite, not {strength}")
        started = time.monotonic()
        source = Checkpoint(model)
        chosen = select_targets(self.targets or tuple(source.linears), source.linears)
        room = _Room(self.max_bytes)
        adapters: dict[str, Adapter] = {}
        modules: list[ExtractedModule] = []
        for number, module in enumerate(chosen):
            if progress is not None:
                progress(number, len(chosen), module)
            weight = source.weight(module)
            check_finite(weight, module)
            found = self._leading(weight, 0.0)
            if not found.rank:
                continue  # a layer of zeros
            adapters[module] = self._adapter(found, strength if use == "amplify" else -strength)
            room.take(adapters[module])
            modules.append(_module(module, adapters[module], found, 1.0))
        if progress is not None:
            progress(len(chosen), len(chosen), "")
        if not modules:
            raise InstrumentError(f"all the layers chosen in {source.base_model.id} are zero")
        what = f"{use} by {strength:g}"
        report = ExtractionReport(
            "direct", source.base_model.id, what, tuple(modules), (), (), time.monotonic() - started
        )
        about.setdefault(
            "description", f"The leading part of the weights of {source.base_model.id}: {what}."
        )
        about["extra"] = {
            "extracted": "direct",
            "use": use,
            "strength": repr(float(strength)),
            **(about.get("extra") or {}),
        }
        return Extraction(
            _card(name, source.base_model, source.dim, adapters, report, about), report
        )

    def _leading(self, matrix: FloatArray, floor: float) -> LowRank:
        energy = 0.9 if self.rank is None and self.energy is None else self.energy
        rank = min(self.rank or MAX_RANK, MAX_RANK)
        return truncated_svd(matrix, rank=rank, energy=energy, floor=floor)

    def _adapter(self, found: LowRank, strength: float = 1.0) -> Adapter:
        alpha = float(found.rank) if self.alpha is None else self.alpha
        return found.adapter(alpha, strength=strength).astype(self.dtype)


class _Room:
    """What a card may still take, so that a hopeless extraction ends early."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0

    def take(self, adapter: Adapter) -> None:
        self._used += adapter.stored
        if self._used > self._limit:
            raise InstrumentError(
                f"the card would take more than {self._limit >> 20} MB; "
                "ask for a lower rank, less energy or fewer layers"
            )


def _check_changed(
    base: Checkpoint, tuned: Checkpoint, modules: Sequence[ExtractedModule], rest: list[LeftOut]
) -> None:
    if modules:
        return
    real = [one for one in rest if one.energy and one.reason != "no more than rounding"]
    if not real:
        raise SameModelsError(
            f"{base.base_model.id} and {tuned.base_model.id} have the same weights, "
            "so there is nothing to extract"
        )
    kinds = ", ".join(sorted({f"{one.kind} ({one.reason})" for one in real}))
    raise InstrumentError(f"what differs is nothing that this card could hold: {kinds}")


def _module(name: str, adapter: Adapter, found: LowRank, change: float) -> ExtractedModule:
    return ExtractedModule(
        name,
        adapter.inputs,
        adapter.outputs,
        adapter.rank,
        adapter.alpha,
        change,
        found.total,
        found.explained,
    )


def _card(
    name: str,
    base: BaseModel,
    dim: int,
    adapters: dict[str, Adapter],
    report: ExtractionReport,
    about: dict[str, Any],
) -> LoRACard:
    common = Counter((a.rank, a.alpha) for a in adapters.values()).most_common(1)[0][0]
    about.setdefault("trainer", EXTRACTOR)
    about.setdefault(
        "metrics",
        {
            "explained": report.explained,
            "captured": report.captured,
            "left_out": len(report.left_out),
        },
    )
    return LoRACard(
        name=name,
        base_model=base,
        dim=dim,
        modules=adapters,
        rank=common[0],
        alpha=common[1],
        **about,
    )
