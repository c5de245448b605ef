"""One fit of a body with its head on a replica of the model; a kill costs it a few steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lora.adapter import HEAD, Adapter
from lora.training.body_fit import (
    BodyConfig,
    BodyFit,
    Epoch,
    Objective,
    Optimizer,
    bend_tensor,
    fit,
)
from lora.training.body_trunk import Replica, Trunk
from lora.training.checkpoint import Checkpoints, Kept

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Learner", "pack", "unpack"]

Ints = npt.NDArray[np.int64]


class Learner:
    """A replica with a body and a head in training, as a context: the adapters leave at its end."""

    def __init__(
        self,
        replica: Replica,
        trunk: Trunk,
        objective: Objective,
        config: BodyConfig,
        *,
        members: Ints,
        rows: Ints,
        head: Adapter | None = None,
        initial: Mapping[str, Adapter] | None = None,
        seed: int = 0,
    ) -> None:
        """Attach fresh adapters, or those given.

        Args:
            members: (k,) the problem's queries to learn from.
            rows: the trunk's row of each of the problem's queries.
            head: what the head starts as, of alpha = rank; None for no head.
            initial: adapters to start from, by module.
        """
        self._replica, self._objective, self._config = replica, objective, config
        self._members, self._rows, self._seed = members, rows, seed
        self._lengths = trunk.lengths[rows[members]]
        shapes = config.adapters(trunk.targets, seed)
        body = replica.attach(shapes, initial)
        self._head: dict[str, nn.Parameter] = {}
        if head is not None:
            device = trunk.engine.device
            self._head = {
                f"{HEAD}.{name}": nn.Parameter(torch.from_numpy(factor.copy()).to(device))
                for name, factor in zip(("lora_a", "lora_b"), head.factors, strict=True)
            }
        steps = config.epochs * -(-len(members) // config.batch)
        self._optimizer = Optimizer(body, self._head, config, steps)

    def __enter__(self) -> Learner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._replica.manager.detach()

    @property
    def steps(self) -> int:
        """Steps taken, those before an interruption included."""
        return self._optimizer.done

    def run(
        self,
        name: str,
        checkpoints: Checkpoints,
        on_step: Callable[[float], None] | None = None,
        resumed: Callable[[int], None] | None = None,
    ) -> BodyFit:
        """All epochs, from the checkpoint of this name where there is one.

        `resumed` hears how many steps had been taken. The result is the same bits however often
        the fit was interrupted: batches are drawn by seed and epoch alone.
        """
        started = last = time.monotonic()
        epoch, place, loss = 0, Epoch(), 0.0
        found = checkpoints.get(name)
        if found is not None:
            epoch, place, loss = self._restore(found)
            if resumed is not None:
                resumed(self.steps)

        def told(value: float) -> None:
            nonlocal last
            if on_step is not None:
                on_step(value)
            if checkpoints.kept and time.monotonic() - last >= checkpoints.every_s:
                last = time.monotonic()
                arrays = {k: t.cpu().numpy() for k, t in self._optimizer.state().items()}
                state = {"epoch": epoch, "loss": loss, "steps": self.steps, "place": asdict(place)}
                checkpoints.put(name, arrays, state)

        while epoch < self._config.epochs:
            loss = self.epoch(epoch, so_far=place, on_step=told)
            epoch, place = epoch + 1, Epoch()
        body, head = self.adapters()
        return BodyFit(body, head, loss, time.monotonic() - started)

    def epoch(
        self,
        number: int,
        *,
        limit: int | None = None,
        so_far: Epoch | None = None,
        on_step: Callable[[float], None] | None = None,
    ) -> float:
        """One epoch; the mean loss in nats."""
        return fit(
            self._encode,
            self._optimizer,
            self._objective,
            self._members,
            self._lengths,
            self._config,
            seed=self._seed,
            epoch=number,
            limit=limit,
            so_far=so_far,
            on_step=on_step,
        )

    def adapters(self) -> tuple[dict[str, Adapter], Adapter | None]:
        """Copies of the body, by module, and of the head as they are now."""
        body = self._replica.manager.trained()
        if not self._head:
            return body, None
        a, b = (p.detach().cpu().numpy().copy() for p in self._head.values())
        return body, Adapter(a, b, a.shape[1], float(a.shape[1]))

    def _restore(self, found: Kept) -> tuple[int, Epoch, float]:
        device = next(iter(self._optimizer.parameters.values())).device
        tensors = {k: torch.from_numpy(v.copy()) for k, v in found.arrays.items()}
        # The optimiser's count of steps stays where it was made, whatever the parameters' device.
        moved = {k: v if k.endswith("/step") else v.to(device) for k, v in tensors.items()}
        self._optimizer.restore(moved, int(found.state["steps"]))
        place = Epoch(**found.state["place"])
        return int(found.state["epoch"]), place, float(found.state["loss"])

    def _encode(self, rows: Ints) -> Tensor:
        vectors = self._replica.forward(self._rows[rows])
        if self._head:
            a, b = self._head.values()
            vectors = bend_tensor(vectors, a, b, 1.0)
        return vectors


def pack(modules: Mapping[str, Adapter]) -> dict[str, npt.NDArray[Any]]:
    """Adapters as arrays for a checkpoint; `unpack` undoes it."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, adapter in modules.items():
        a, b = adapter.factors
        arrays |= {f"{name}/a": a, f"{name}/b": b, f"{name}/alpha": np.array([adapter.alpha])}
    return arrays


def unpack(arrays: Mapping[str, npt.NDArray[Any]], names: Sequence[str]) -> dict[str, Adapter]:
    """The adapters of these modules that `pack` took apart."""
    return {
        name: Adapter(
            arrays[f"{name}/a"],
            arrays[f"{name}/b"],
            int(arrays[f"{name}/a"].shape[1]),
            float(arrays[f"{name}/alpha"][0]),
        )
        for name in names
    }
