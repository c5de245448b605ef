"""A Linear layer that adds low-rank adapters to chosen rows of its batch.

    rows of the batch        x (batch, …, in)
    ┌───────────────┐           │
    │ 0..3  card α  │      ┌────┴─────┐
    │ 3..5  α and β │      │          ├── per segment ─▶ x[s:e] @ A (in, rank) @ B (rank, out)
    │ 5..8  none    │   base(x)       │                        · alpha / rank
    └───────────────┘      └────+◀────┘
                          y (batch, …, out)

LoRA: arXiv 2106.09685. Segments over sorted rows are the idea of Punica, arXiv 2310.18547.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from lora.adapter import Adapter
from lora.errors import ModuleShapeError, UnknownCardError

__all__ = ["LoRALinear", "Plan", "Segment", "Weights", "as_tensor"]


class Segment(NamedTuple):
    """Rows `start` to `end` (not included) of the batch go through the adapter named `key`."""

    start: int
    end: int
    key: str


class Plan:
    """What the layers of one model do with the batch that comes next; shared by all of them.

    Not safe for several threads at once: whoever runs the model holds a lock.
    """

    def __init__(self) -> None:
        self.segments: tuple[Segment, ...] = ()
        self.trainable = True
        """Whether the adapter in training, where there is one, applies (to all rows)."""


@dataclass(frozen=True)
class Weights:
    """An adapter's matrices on the device: `a` (in, rank), `b` (rank, out)."""

    a: Tensor
    b: Tensor
    scale: float

    @classmethod
    def of(cls, adapter: Adapter, *, like: Tensor) -> Weights:
        """On the device and in the dtype of `like`; a view of the mapping where those agree.

        Views take no memory, so the same ones are given again as long as the adapter lives. int8
        travels as it is stored, and is multiplied by its scales once, where it arrives.
        """
        known = adapter.kept.get(_VIEWS)
        if known is not None and (known.a.dtype, known.a.device) == (like.dtype, like.device):
            return cast("Weights", known)
        a = _placed(adapter.a, adapter.a_scale, like)
        b = _placed(adapter.b, adapter.b_scale, like)
        made = cls(a, b, adapter.scale)
        if adapter.dtype == "float32" and (a.dtype, a.device.type) == (torch.float32, "cpu"):
            adapter.kept[_VIEWS] = made
        return made


_VIEWS: Final = "views"
"""Under this name an adapter keeps weights that are views of its matrices."""


class _Foreign:
    """Lends an array's memory to NumPy as writable, and keeps the array alive."""

    def __init__(self, owner: npt.NDArray[Any]) -> None:
        self.owner = owner
        self.__array_interface__ = owner.__array_interface__  # one of its own, each time
        self.__array_interface__["data"] = (self.__array_interface__["data"][0], False)


def _lent(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(_Foreign(array)))


def _taker() -> Callable[[npt.NDArray[Any]], Tensor]:
    """What makes a tensor over an array's memory.

    `from_numpy` warns of read-only arrays since it cannot keep them so; DLPack, from its version 1
    on, is told that they are. The layers never write to an adapter's weights, so that a mapping can
    as well be lent as if it were writable.
    """
    sample = np.frombuffer(bytes(8), np.uint16)
    try:
        with warnings.catch_warnings(action="error"):
            from_dlpack(sample)
    except (BufferError, RuntimeError, TypeError, Warning):
        return _lent
    return cast("Callable[[npt.NDArray[Any]], Tensor]", from_dlpack)


_over: Final = _taker()


def as_tensor(matrix: npt.NDArray[Any]) -> Tensor:
    """A stored matrix as a tensor over the same memory; uint16 is taken as bfloat16's raw bits.

    The tensor must not be written to: the memory may be a read-only mapping.
    """
    tensor = _over(np.ascontiguousarray(matrix))
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _placed(stored: npt.NDArray[Any], scale: npt.NDArray[Any] | None, like: Tensor) -> Tensor:
    if scale is None:
        tensor = as_tensor(stored)
        fits = tensor.dtype == like.dtype and tensor.device == like.device
        return tensor if fits else tensor.to(like.device, like.dtype)
    widths = as_tensor(scale).to(like.device)
    return (as_tensor(stored).to(like.device) * widths).to(like.dtype)


class LoRALinear(nn.Module):
    """Wraps an `nn.Linear`, which stays the same object, and holds any number of adapters.

    Inference adds in place into the base product; with gradients on, everything is out of place
    and only the adapter in training (`lora_a`, `lora_b`) gets gradients. With no segment for it the
    layer gives what the base gives, bit for bit.
    """

    def __init__(self, base: nn.Linear, plan: Plan | None = None) -> None:
        super().__init__()
        self.base = base
        self.plan = plan or Plan()
        self.adapters: dict[str, Weights] = {}
        self.lora_a: nn.Parameter | None = None
        self.lora_b: nn.Parameter | None = None
        self._alpha = 0.0
        self._dropout = 0.0
        # In a tuple, or torch would count the weight as a second parameter.
        self._original: tuple[Tensor, ...] = ()
        self._merged: set[str] = set()

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.base.out_features

    @property
    def weight(self) -> Tensor:
        """The base layer's weight (out, in)."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias (out,)."""
        return cast("Tensor | None", self.base.bias)

    def check(self, adapter: Adapter, name: str = "this layer") -> None:
        """Raise `ModuleShapeError` unless the adapter fits."""
        if (adapter.inputs, adapter.outputs) != (self.in_features, self.out_features):
            raise ModuleShapeError(
                f"the adapter for {name} goes from {adapter.inputs} to {adapter.outputs}, "
                f"the layer from {self.in_features} to {self.out_features}"
            )

    def add(self, key: str, adapter: Adapter) -> None:
        """Hold an adapter under `key`; it applies where a segment says so."""
        self.check(adapter)
        self.hold(key, Weights.of(adapter, like=self.base.weight))

    def hold(self, key: str, weights: Weights) -> None:
        """`add` for matrices that are on the device already, and fit."""
        self.adapters[key] = weights

    def drop(self, key: str) -> None:
        """Let go of an adapter; one that is not there is no error. A merged one is unmerged."""
        if key in self._merged:
            self.unmerge(key)
        self.adapters.pop(key, None)

    def start_training(
        self,
        rank: int,
        alpha: float,
        *,
        generator: torch.Generator | None = None,
        dropout: float = 0.0,
        initial: Adapter | None = None,
    ) -> tuple[nn.Parameter, nn.Parameter]:
        """Give the layer a trainable adapter that applies to all rows; (A, B) in float32.

        A starts Kaiming-uniform (bound 1 / √in), B at zero, so a fresh one changes nothing;
        `initial` starts from its values instead, and brings its own rank and alpha.
        """
        device = self.base.weight.device
        if initial is None:
            bound = self.in_features**-0.5
            a = (torch.rand(self.in_features, rank, generator=generator) * 2 - 1) * bound
            b = torch.zeros(rank, self.out_features)
        else:
            self.check(initial)
            a, b = (torch.from_numpy(factor.copy()) for factor in initial.factors)
            rank, alpha = initial.rank, initial.alpha
        self.lora_a = nn.Parameter(a.to(device))
        self.lora_b = nn.Parameter(b.to(device))
        self._alpha, self._dropout = alpha, dropout
        return self.lora_a, self.lora_b

    def trained(self) -> Adapter | None:
        """A copy of the adapter in training, if there is one."""
        if self.lora_a is None or self.lora_b is None:
            return None
        a, b = (p.detach().float().cpu().numpy().copy() for p in (self.lora_a, self.lora_b))
        return Adapter(a, b, a.shape[1], self._alpha)

    def stop_training(self) -> None:
        """Let go of the adapter in training."""
        self.lora_a = self.lora_b = None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, …, in) to (batch, …, out); the plan's segments are over the first dimension."""
        y = cast("Tensor", self.base(x))
        for start, end, key in self.plan.segments:
            weights = self.adapters.get(key)
            if weights is not None and key not in self._merged:
                y = _added(y, x, start, end, weights)
        if self.lora_a is not None and self.lora_b is not None and self.plan.trainable:
            dropped = nn.functional.dropout(x, self._dropout, self.training)
            scale = self._alpha / self.lora_a.shape[1]
            y = y + ((dropped @ self.lora_a.to(x.dtype)) @ self.lora_b.to(x.dtype)) * scale
        return y

    def merge(self, key: str) -> None:
        """Add an adapter into the base weight, for all rows, until `unmerge`; segments skip it."""
        if key in self._merged:
            return
        if key not in self.adapters:
            raise UnknownCardError(f"the layer holds no adapter {key!r} to merge")
        if not self._original:
            self._original = (self.base.weight,)
        self._merged.add(key)
        self._set_merged()

    def unmerge(self, key: str | None = None) -> None:
        """Take one merged adapter, or all, out again; with the last the very weight is back."""
        self._merged -= self._merged.copy() if key is None else {key}
        self._set_merged()

    def _set_merged(self) -> None:
        if not self._original:
            return
        if not self._merged:
            (self.base.weight,) = self._original
            self._original = ()
            return
        with torch.no_grad():
            weight = self._original[0].detach().clone()
            for key in sorted(self._merged):
                adapter = self.adapters[key]
                weight += (adapter.a @ adapter.b).T * adapter.scale
        self.base.weight = nn.Parameter(weight, requires_grad=False)


def _added(y: Tensor, x: Tensor, start: int, end: int, weights: Weights) -> Tensor:
    a, b, scale = weights.a, weights.b, weights.scale
    if not torch.is_grad_enabled() and y.dtype == x.dtype == a.dtype and y.is_contiguous():
        rows = x[start:end].reshape(-1, x.shape[-1])
        y[start:end].view(-1, y.shape[-1]).addmm_(rows @ a, b, alpha=scale)
        return y
    part = y[start:end] + (x[start:end].to(a.dtype) @ a @ b).to(y.dtype) * scale
    return torch.cat([y[:start], part, y[end:]])
