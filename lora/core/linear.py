"""Linear layers by the fastest kernel that this machine has for them.

PyTorch multiplies float32 matrices by MKL, whose kernels for processors of other makers than its
own use half of their width. oneDNN, which PyTorch carries too, uses all of it: on one AMD core 205
instead of 95 GFLOP/s. On others MKL may be the better one. So both are tried once, for some
milliseconds, and the faster one is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Kernel", "kernel_for", "kernels"]

ROWS: Final = 192
TRIES: Final = 4
PACKING: Final = 0.9
"""What packed weights, which the trial does without, make of a kernel's time."""
PACKED_ROWS: Final = 256
"""Rows of the input for which a packed weight's order is chosen; it serves any number."""

STEP: Final = 8
"""With batches up to 1,024 tokens these are 128 numbers of rows, four layers each: half of what
oneDNN keeps."""

CLOSE: Final = 1e-3
"""Of two kernels' products of normal numbers, which differ by rounding alone."""

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Kernel(NamedTuple):
    """`plain(x, weight, bias)` is `x @ weight.T + bias`; `gelu` its exact GELU."""

    name: str
    plain: Linear
    gelu: Linear
    pack: Callable[[Tensor], Tensor] | None = None
    """A copy of a weight (out, in) in the order that it multiplies in; None where there is none."""
    step: int = 1
    """Inputs should have a multiple of so many rows: it writes a program for each number of them,
    which takes longer than to multiply some rows too many."""


def _gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.gelu(F.linear(x, weight, bias))


STANDARD: Final = Kernel("torch", F.linear, _gelu)


def _onednn() -> Kernel | None:
    available: Any = torch.backends.mkldnn.is_available  # it carries no annotations
    found: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    operation: Any = getattr(found, "default", None)
    if operation is None or not available():
        return None

    def plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = operation(x, weight, bias, "none", [], "")
        return product

    def gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = operation(x, weight, bias, "gelu", [], "none")
        return product

    reorder: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)

    def pack(weight: Tensor) -> Tensor:
        packed: Tensor = reorder(weight.detach().contiguous(), PACKED_ROWS)
        return packed

    return Kernel("oneDNN", plain, gelu, None if reorder is None else pack, STEP)


def kernels() -> tuple[Kernel, ...]:
    """Those that this build of PyTorch has for float32 on a CPU."""
    other = _onednn()
    return (STANDARD,) if other is None else (STANDARD, other)


@cache
def kernel_for(device: str, dtype: torch.dtype, width: int) -> Kernel:
    """The one to use on a type of device, for layers from `width` features; measured once."""
    if device != "cpu" or dtype is not torch.float32:
        return STANDARD  # reduced precision goes through oneDNN by itself
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(ROWS, width, generator=generator)
        weight = torch.randn(2 * width, width, generator=generator)
        bias = torch.randn(2 * width, generator=generator)
        able = [kernel for kernel in kernels() if _right(kernel, x, weight, bias)]
        if len(able) < 2:
            return STANDARD
        taken = dict.fromkeys(able, float("inf"))
        for _ in range(TRIES):
            for kernel in able:
                started = time.perf_counter()
                kernel.plain(x, weight, bias)
                taken[kernel] = min(taken[kernel], time.perf_counter() - started)
    # Packed weights pay for what they take by lone queries, so between equals they decide.
    return min(taken, key=lambda kernel: taken[kernel] * (1.0 if kernel.pack is None else PACKING))


def _right(kernel: Kernel, x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether it runs here and gives what it should: it is no public interface of PyTorch's."""
    try:
        packed = weight if kernel.pack is None else kernel.pack(weight)
        pairs = (
            (kernel.plain(x, weight, bias), F.linear(x, weight, bias)),
            (kernel.plain(x[:3], packed, bias), F.linear(x[:3], weight, bias)),
            (kernel.gelu(x, packed, bias), _gelu(x, weight, bias)),
        )
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return all(torch.allclose(found, wanted, atol=CLOSE, rtol=CLOSE) for found, wanted in pairs)
