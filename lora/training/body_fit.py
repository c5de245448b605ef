"""One training of a body together with its head: softmax over frozen passages, by AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lora.adapter import HEAD, MAX_RANK, Adapter
from lora.config import LoRAConfig
from lora.training.errors import ConfigError
from lora.training.head import HeadProblem

__all__ = [
    "BodyConfig",
    "BodyFit",
    "Epoch",
    "Objective",
    "Optimizer",
    "batches",
    "bend_tensor",
    "fit",
]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_WARMUP = 0.1
_JITTER = 3.0


@dataclass(frozen=True)
class BodyConfig:
    """How one body is trained; a contradiction raises `ConfigError`."""

    rank: int = 8
    """Rank of the adapters on the encoder's layers."""
    ranks: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Rank by module, named as in cards, exactly or by suffix. Where it is given, these modules are
    adapted, and neither `rank`, `targets` nor `layers` chooses others."""
    alpha: float = 16.0
    """What adapters add is scaled by alpha / rank, of these two, whatever a module's own rank."""
    targets: tuple[str, ...] = ("query", "value")
    """Linear layers by suffix."""
    layers: int = 2
    """How many of the uppermost encoder layers are adapted; 0 for all."""
    temperature: float = 0.05
    """τ of the softmax over cosines, above 0."""
    learning_rate: float = 4e-3
    """AdamW's step for the body at its highest, above 0."""
    head_learning_rate: float = 3e-4
    """The same for the head, 0 or more; 0 leaves the head as it starts."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay towards "no change", 0 or more."""
    epochs: int = 5
    """Passes over the queries."""
    batch: int = 16
    """Queries of a step."""
    head_start: float = 0.5
    """Share of the fitted head that training starts from, 0 to 1. A whole head has learnt the
    queries by heart already, and would leave the body nothing to learn from."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", dict(sorted(self.ranks.items())))
        for name, rank in self.ranks.items():
            if type(rank) is not int or not 1 <= rank <= MAX_RANK:
                raise ConfigError(f"the rank of {name} should lie in 1 to {MAX_RANK}, not {rank}")
        for name in ("rank", "alpha", "temperature", "learning_rate", "epochs", "batch"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} should be above 0, not {getattr(self, name)}")
        for name in ("layers", "head_learning_rate", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} should not be negative, but is {getattr(self, name)}")
        if not 0 <= self.head_start <= 1:
            raise ConfigError(f"head_start should lie in 0 to 1, not {self.head_start}")
        if not self.targets:
            raise ConfigError("a body needs at least one target")

    @property
    def adapted(self) -> tuple[str, ...]:
        """Modules that get adapters, by exact name or by suffix."""
        return tuple(self.ranks) or self.targets

    @property
    def depth(self) -> int:
        """How many of the uppermost layers may be adapted; 0 for all."""
        return 0 if self.ranks else self.layers

    def adapters(self, modules: tuple[str, ...], seed: int) -> LoRAConfig:
        """The fresh adapters of these modules, given by their full names."""
        shape = LoRAConfig(rank=self.rank, alpha=self.alpha, rank_pattern=dict(self.ranks))
        return replace(
            shape,
            target_modules=modules,
            alpha_pattern={name: shape.scale * shape.rank_of(name) for name in modules},
            seed=seed,
        )


@dataclass(frozen=True, eq=False)
class BodyFit:
    """What one training made."""

    body: Mapping[str, Adapter]
    """By full module name."""
    head: Adapter | None
    loss: float
    """Mean cross entropy of the last epoch, in nats."""
    seconds: float

    def scaled(self, body: float, head: float) -> dict[str, Adapter]:
        """A card's modules, with shares of the body and of the head; 0 leaves one out."""
        modules = {name: _scaled(a, body) for name, a in self.body.items()} if body else {}
        if head and self.head is not None:
            modules[HEAD] = _scaled(self.head, head)
        return modules


class Objective:
    """Softmax cross entropy over the problem's frozen passages, soft labels and mask included."""

    def __init__(self, problem: HeadProblem, temperature: float) -> None:
        self._passages = torch.from_numpy(problem.passages)
        self._targets = torch.from_numpy(problem.targets)
        self._hidden = torch.from_numpy(problem.hidden)
        self._weights = torch.from_numpy(np.array(problem.weights, np.float32))
        self._temperature = temperature

    def loss(self, vectors: Tensor, members: Ints) -> Tensor:
        """Weighted mean in nats; vectors (k, dim) of the problem's queries `members`."""
        at = torch.from_numpy(members)
        device = vectors.device
        passages, targets, hidden, weights = (
            part.to(device)
            for part in (
                self._passages,
                self._targets[at],
                self._hidden[at],
                self._weights[at],
            )
        )
        unit = nn.functional.normalize(vectors.float(), dim=-1)
        logits = (unit @ passages.T) / self._temperature
        logs = nn.functional.log_softmax(logits.masked_fill(hidden, -1e4), dim=-1)
        each = -(targets * logs).sum(dim=-1)
        return (each * weights).sum() / weights.sum().clamp_min(1e-12)


class Optimizer:
    """AdamW over a body and a head, with warm-up and linear decay to zero over `steps` steps.

    Without a number of steps the rates stay as they are.
    """

    def __init__(
        self,
        body: Mapping[str, nn.Parameter],
        head: Mapping[str, nn.Parameter],
        config: BodyConfig,
        steps: int | None,
    ) -> None:
        self._steps = None if steps is None else max(1, steps)
        self._rates = (config.learning_rate, config.head_learning_rate)
        self.parameters = {**body, **head}
        groups = [
            {"params": list(part.values()), "weight_decay": config.weight_decay}
            for part in (body, head)
        ]
        self._groups = [i for i, group in enumerate(groups) if group["params"]]
        self.adam = torch.optim.AdamW(
            [groups[i] for i in self._groups], lr=config.learning_rate, betas=(0.9, 0.98)
        )
        self.done = 0
        """Steps taken."""

    def step(self, loss: Tensor) -> None:
        """One step down this loss."""
        share = 1.0
        if self._steps is not None:
            warm = min(1.0, (self.done + 1) / max(1.0, _WARMUP * self._steps))
            share = warm * max(0.0, 1.0 - self.done / self._steps)
        for index, group in zip(self._groups, self.adam.param_groups, strict=True):
            group["lr"] = self._rates[index] * share
        self.adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        self.done += 1

    def state(self) -> dict[str, Tensor]:
        """Parameters and moments as they are now, by name; views, not copies."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[name] = parameter.detach().contiguous()
            for key, value in self.adam.state[parameter].items():
                tensors[f"{name}/{key}"] = value.contiguous()
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], done: int) -> None:
        """Go on from what `state` gave after `done` steps; `KeyError` where a tensor is missing."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])
                self.adam.state[parameter] = {
                    key.partition("/")[2]: value.clone()
                    for key, value in tensors.items()
                    if key.startswith(name + "/")
                }
        self.done = done


@dataclass
class Epoch:
    """How far an epoch has come."""

    batches: int = 0
    total: float = 0.0
    """Sum of the losses of the queries so far, in nats."""
    queries: int = 0


def batches(lengths: Ints, size: int, seed: int, epoch: int) -> list[Ints]:
    """Positions into `lengths`, in batches of like length, in an order of this seed and epoch.

    Lengths are shaken a little before they are sorted, so that batches differ between epochs while
    little is spent on padding.
    """
    generator = np.random.default_rng((seed, epoch))
    order = np.argsort(lengths + generator.random(len(lengths)) * _JITTER, kind="stable")
    made = [order[start : start + size] for start in range(0, len(order), size)]
    return [made[i] for i in generator.permutation(len(made))]


def bend_tensor(vectors: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`lora.head.bend` with gradients: (n, dim) vectors, lengths kept."""
    norms: Tensor = vectors.norm(dim=-1, keepdim=True)
    unit = vectors / norms.clamp_min(1e-12)
    turned: Tensor = nn.functional.normalize(unit + (unit @ a @ b) * scale, dim=-1)
    return norms * turned


def fit(
    encode: Callable[[Ints], Tensor],
    optimizer: Optimizer,
    objective: Objective,
    members: Ints,
    lengths: Ints,
    config: BodyConfig,
    *,
    seed: int,
    epoch: int,
    limit: int | None = None,
    so_far: Epoch | None = None,
    on_step: Callable[[float], None] | None = None,
) -> float:
    """One epoch over the problem's queries `members`; the mean loss in nats.

    `encode` gives the embeddings (k, dim), head included, of queries by index into the problem;
    `lengths` (k,) are the tokens of the members; `limit` ends the epoch after so many steps. An
    epoch that was interrupted goes on from `so_far`, which is kept up to date.
    """
    place = so_far or Epoch()
    for batch in batches(lengths, config.batch, seed, epoch)[:limit][place.batches :]:
        rows = members[batch]
        loss = objective.loss(encode(rows), rows)
        optimizer.step(loss)
        value = float(loss.detach())
        place.batches += 1
        place.total, place.queries = place.total + value * len(rows), place.queries + len(rows)
        if on_step is not None:
            on_step(value)
    return place.total / max(1, place.queries)


def _scaled(adapter: Adapter, share: float) -> Adapter:
    if share == 1.0:
        return adapter
    root = np.float32(math.sqrt(share))
    a, b = adapter.factors
    return Adapter(a * root, b * root, adapter.rank, adapter.alpha)
