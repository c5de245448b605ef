"""Texts, tokenised once: a batch of any of them is put together from what was kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Tokens"]

Ints = npt.NDArray[np.int64]
Prepare = Callable[[Sequence[str]], dict[str, Any]]
"""Makes a model's input of a batch: tensors (k, tokens) with an attention mask, and constants."""

_CHUNK = 256
_PROBE = 8


class Tokens:
    """A batch is to the bit what `prepare` makes of the same texts.

    That is checked on a few of them. Where it does not hold, as for a model whose input is of
    another form, each batch is prepared anew.
    """

    def __init__(self, texts: Sequence[str], lengths: Ints, prepare: Prepare) -> None:
        """`lengths` (n,): tokens of each text, by which they are tokenised together."""
        self._texts, self._prepare = texts, prepare
        self._ids: list[dict[str, Tensor]] = []
        self._pads: dict[str, int] = {}
        self._constants: dict[str, Any] = {}
        order = np.argsort(lengths, kind="stable")
        # Of all lengths, so that there is something to pad.
        probe = order[:: max(1, len(order) // _PROBE)][:_PROBE]
        if (
            self._read(prepare(self._some(probe))) is None
            or not self._keep(order)
            or not _same(self._joined(probe), prepare(self._some(probe)))
        ):
            self._ids = []

    @property
    def kept(self) -> bool:
        """Whether batches are put together from what was kept."""
        return bool(self._ids)

    def batch(self, rows: Ints) -> dict[str, Any]:
        """The model's input of these texts."""
        return self._joined(rows) if self._ids else self._prepare(self._some(rows))

    def _some(self, rows: Ints) -> list[str]:
        return [self._texts[row] for row in rows]

    def _keep(self, order: Ints) -> bool:
        found: dict[int, dict[str, Tensor]] = {}
        for start in range(0, len(order), _CHUNK):
            rows = order[start : start + _CHUNK]
            read = self._read(self._prepare(self._some(rows)))
            if read is None:
                return False
            found |= dict(zip(rows.tolist(), read, strict=True))
        self._ids = [found[row] for row in range(len(self._texts))]
        return True

    def _read(self, features: dict[str, Any]) -> list[dict[str, Tensor]] | None:
        """Of each text its part of every tensor; None where this is not to be understood."""
        mask = features.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            return None
        used = mask.bool()
        tensors = {key: it for key, it in features.items() if isinstance(it, Tensor)}
        if any(it.shape != mask.shape for it in tensors.values()):
            return None
        constants = {key: it for key, it in features.items() if key not in tensors}
        if self._constants and constants != self._constants:
            return None
        self._constants = constants
        for key, it in tensors.items():
            padded = it[~used]
            if len(padded):
                self._pads[key] = int(padded[0])
        return [
            {key: it[row, used[row]] for key, it in tensors.items()} for row in range(len(mask))
        ]

    def _joined(self, rows: Ints) -> dict[str, Any]:
        parts = [self._ids[row] for row in rows]
        return {
            key: torch.nn.utils.rnn.pad_sequence(
                [part[key] for part in parts],
                batch_first=True,
                padding_value=self._pads.get(key, 0),
            )
            for key in parts[0]
        } | self._constants


def _same(some: dict[str, Any], others: dict[str, Any]) -> bool:
    if some.keys() != others.keys():
        return False
    return all(
        torch.equal(it, others[key]) if isinstance(it, Tensor) else it == others[key]
        for key, it in some.items()
    )
