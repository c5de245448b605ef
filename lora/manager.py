"""Puts cards into a model's Linear layers and takes them out again."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lora.adapter import HEAD, Adapter
from lora.card import BaseModel, LoRACard, LoRAFormat
from lora.config import LoRAConfig
from lora.errors import (
    BaseModelMismatchError,
    ConfigError,
    ModuleShapeError,
    NoMatchingModuleError,
    UnknownCardError,
)
from lora.layer import LoRALinear, Plan, Segment, Weights
from lora.matching import match_keys, select_targets

__all__ = ["Injection", "LoRAManager", "ManagerStatistics", "Prepared", "check_base"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Injection:
    """What applying one card did."""

    name: str
    digest: str
    modules: tuple[str, ...]
    """The layers that hold an adapter of it now; empty for a card that is only a head."""

    missing: tuple[str, ...]
    """The card's modules that this model does not have."""

    parameters: int
    """Numbers in the adapters that were injected."""

    milliseconds: float


@dataclass(frozen=True)
class Prepared:
    """A card on its way into the model."""

    card: LoRACard
    weights: Mapping[str, Weights]
    """Its matrices on the device, by layer."""
    missing: tuple[str, ...]


@dataclass(frozen=True)
class ManagerStatistics:
    """What is in the model now."""

    cards: int
    wrapped: int
    """Linear layers that hold an adapter."""

    linears: int
    """Linear layers the model has."""

    parameters: int
    """Numbers in all adapters that are injected."""


def check_base(card: LoRACard, base_model: BaseModel | None, dim: int | None) -> None:
    """Raise `BaseModelMismatchError` or `ModuleShapeError` unless the card is for this model."""
    if base_model is not None and card.base_model.sha256 != base_model.sha256:
        raise BaseModelMismatchError(
            f"card {card.name}@{card.version} was trained on {card.base_model.id} "
            f"({card.base_model.sha256[:12]}…), this model is {base_model.id} "
            f"({base_model.sha256[:12]}…)"
        )
    if dim is not None and card.dim != dim:
        raise ModuleShapeError(
            f"card {card.name}@{card.version} is for embeddings of {card.dim} dimensions, "
            f"this model gives {dim}"
        )


class LoRAManager:
    """The adapters in one model. Layers are wrapped when the first card needs them, and after the
    last is gone every original `nn.Linear` is back, the same object.

    Not safe for several threads at once: whoever runs the model holds a lock.
    """

    def __init__(
        self, model: nn.Module, *, base_model: BaseModel | None = None, dim: int | None = None
    ) -> None:
        """`base_model` and `dim`, where given, are what a card must have been made for."""
        self.model = model
        self.base_model = base_model
        self.dim = dim
        self.plan = Plan()
        self._linears = {
            name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)
        }
        self._wrapped: dict[str, LoRALinear] = {}
        self._cards: dict[str, LoRACard] = {}
        self._weights: dict[str, Mapping[str, Weights]] = {}
        self._injections: dict[str, Injection] = {}
        self._merged: set[str] = set()
        self._frozen: list[nn.Parameter] = []
        self._training: tuple[str, ...] = ()

    @property
    def linears(self) -> tuple[str, ...]:
        """The names of the model's Linear layers, in its order."""
        return tuple(self._linears)

    def load_card(self, path: str | Path, *, digest: str | None = None) -> LoRACard:
        """Read a card and check that it is for this model; nothing is applied yet."""
        card = LoRAFormat.read(path, digest=digest)
        check_base(card, self.base_model, self.dim)
        return card

    def prepare(self, card: LoRACard) -> Prepared:
        """Everything about a card that takes time, so that `apply_card` takes none.

        May be called from another thread while the model runs.

        Raises:
            BaseModelMismatchError, NoMatchingModuleError, ModuleShapeError: it is not for this
                model.
        """
        check_base(card, self.base_model, self.dim)
        body = card.body
        matching = match_keys(body, self._linears)
        if body and not matching.pairs:
            raise NoMatchingModuleError(
                f"card {card.name}@{card.version} targets {', '.join(list(body)[:3])}…, "
                "none of which this model has"
            )
        for key, module in matching.pairs.items():
            linear = self._linears[module]
            if (body[key].inputs, body[key].outputs) != (linear.in_features, linear.out_features):
                raise ModuleShapeError(
                    f"card {card.name}@{card.version}: {key} goes from {body[key].inputs} to "
                    f"{body[key].outputs}, the layer {module} from {linear.in_features} to "
                    f"{linear.out_features}"
                )
        if matching.missing:
            log.warning(
                "card %s@%d: this model has no module for %s",
                card.name,
                card.version,
                ", ".join(matching.missing),
            )
        weights = {
            module: Weights.of(body[key], like=self._linears[module].weight)
            for key, module in matching.pairs.items()
        }
        return Prepared(card, weights, matching.missing)

    def apply_card(self, card: LoRACard, prepared: Prepared | None = None) -> Injection:
        """Put a card's body into the layers it targets; it acts on the rows that `rows` gives it.

        A card that is already active is logged as a warning and nothing else; one that matches only
        some modules is applied, with a warning that names the missing. `prepared` is what `prepare`
        gave for it.

        Raises:
            BaseModelMismatchError, NoMatchingModuleError, ModuleShapeError: nothing was changed.
        """
        if card.key in self._cards:
            log.warning("card %s@%d is already active", card.name, card.version)
            return self._injections[card.key]
        started = time.perf_counter()
        prepared = prepared or self.prepare(card)
        for module, weights in prepared.weights.items():
            self._wrap(module).hold(card.key, weights)
        injection = Injection(
            card.name,
            card.key,
            tuple(prepared.weights),
            prepared.missing,
            sum(weights.a.numel() + weights.b.numel() for weights in prepared.weights.values()),
            (time.perf_counter() - started) * 1000,
        )
        self._cards[card.key] = card
        self._weights[card.key] = prepared.weights
        self._injections[card.key] = injection
        return injection

    def remove_card(self, card: LoRACard | str) -> None:
        """Take a card out, by itself, its digest or its name; one that is absent is no error."""
        for key in self._keys(card):
            del self._cards[key], self._weights[key]
            self._merged.discard(key)
            for module in self._injections.pop(key).modules:
                self._wrapped[module].drop(key)
                self._unwrap_idle(module)

    def list_cards(self) -> list[LoRACard]:
        """The active cards, the longest active first."""
        return list(self._cards.values())

    def statistics(self) -> ManagerStatistics:
        """What is in the model now."""
        parameters = sum(injection.parameters for injection in self._injections.values())
        return ManagerStatistics(
            len(self._cards), len(self._wrapped), len(self._linears), parameters
        )

    @contextlib.contextmanager
    def rows(self, segments: Sequence[Segment]) -> Iterator[None]:
        """Within the block, the forward pass sends these rows of its batch through these cards."""
        for segment in segments:
            if segment.key not in self._cards:
                raise UnknownCardError(f"no active card has the digest {segment.key!r}")
        before, self.plan.segments = self.plan.segments, tuple(segments)
        try:
            yield
        finally:
            self.plan.segments = before

    def weights_of(self, segments: Sequence[Segment]) -> dict[str, Mapping[str, Weights]]:
        """What the cards of these segments add, by card and layer; what is merged adds nothing.

        Raises `UnknownCardError`.
        """
        found: dict[str, Mapping[str, Weights]] = {}
        for _, _, key in segments:
            if key in found:
                continue
            if key not in self._weights:
                raise UnknownCardError(f"no active card has the digest {key!r}")
            found[key] = {} if key in self._merged else self._weights[key]
        return found

    def merge(self, card: LoRACard | str) -> None:
        """Add a card's body into the weights, for every row, until `unmerge`."""
        keys = self._keys(card)
        if not keys:
            raise UnknownCardError(
                f"no active card is {card if isinstance(card, str) else card.name!r}"
            )
        for key in keys:
            for module in self._injections[key].modules:
                self._wrapped[module].merge(key)
            self._merged.add(key)

    def unmerge(self, card: LoRACard | str) -> None:
        """Take a merged card's body out of the weights again; exactly the old weights are back."""
        for key in self._keys(card):
            for module in self._injections[key].modules:
                self._wrapped[module].unmerge(key)
            self._merged.discard(key)

    def attach_trainable(
        self, config: LoRAConfig, *, initial: Mapping[str, Adapter] | None = None
    ) -> dict[str, nn.Parameter]:
        """Give the targets of `config` a fresh adapter in training, applied to all rows.

        The same seed gives the same weights. `initial` maps full module names to adapters to start
        from; their rank and alpha win. All other parameters of the model are frozen until `detach`.
        The target `embedding` is not a layer and is left to the trainer.

        Returns:
            The trainable parameters by name (`<module>.lora_a`, `<module>.lora_b`).

        Raises:
            NoMatchingModuleError: a target means no Linear layer here.
            ConfigError: an adapter is in training already.
        """
        if self._training:
            raise ConfigError("an adapter is in training already; detach it first")
        names = [name for name in config.target_modules if name != HEAD]
        targets = select_targets(names, self._linears)
        if not targets:
            raise NoMatchingModuleError("the configuration targets no layer of the encoder")
        self._frozen = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        generator = torch.Generator().manual_seed(config.seed)
        parameters: dict[str, nn.Parameter] = {}
        for name in targets:
            a, b = self._wrap(name).start_training(
                config.rank_of(name),
                config.alpha_of(name),
                generator=generator,
                dropout=config.dropout,
                initial=None if initial is None else initial.get(name),
            )
            parameters[f"{name}.lora_a"], parameters[f"{name}.lora_b"] = a, b
        self._training = tuple(targets)
        return parameters

    def trained(self) -> dict[str, Adapter]:
        """Copies of the adapters in training as they are now, by full module name."""
        adapters = {name: self._wrapped[name].trained() for name in self._training}
        return {name: adapter for name, adapter in adapters.items() if adapter is not None}

    def detach(self) -> dict[str, Adapter]:
        """End the training; what was trained, by full module name. The model is as it was."""
        adapters = self.trained()
        for name in self._training:
            self._wrapped[name].stop_training()
            self._unwrap_idle(name)
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._training, self._frozen = (), []
        return adapters

    def _keys(self, card: LoRACard | str) -> list[str]:
        if isinstance(card, LoRACard):
            return [card.key] if card.key in self._cards else []
        return [key for key, held in self._cards.items() if card in (key, held.name)]

    def _wrap(self, name: str) -> LoRALinear:
        layer = self._wrapped.get(name)
        if layer is None:
            base = self._linears[name]
            layer = LoRALinear(base, self.plan).train(base.training)
            self._wrapped[name] = layer
            self._put(name, layer)
        return layer

    def _unwrap_idle(self, name: str) -> None:
        layer = self._wrapped[name]
        if not layer.adapters and layer.lora_a is None:
            del self._wrapped[name]
            self._put(name, self._linears[name])

    def _put(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)
