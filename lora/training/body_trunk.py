"""The part of the encoder that a body leaves alone, run once; and the part above it, in copies.

    layers 0 … k-1   frozen: their output is kept per text, without padding
    layers k … n-1   adapted: run at every step, by the model's own modules, from what was kept

A copy (`Replica`) shares every weight with the engine's model but has modules, and so adapters, of
its own: several bodies are trained at once, each in a thread. One thread per operation and several
trainings beats one training with threads inside: the products of a small encoder are too short to
be split well, least of all on cores that others use too.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lora.config import LoRAConfig
from lora.engine import ArrowEngine
from lora.errors import NoMatchingModuleError
from lora.layer import LoRALinear
from lora.manager import LoRAManager
from lora.matching import select_targets
from lora.training.errors import TrainingError
from lora.training.memory import ACTIVATIONS
from lora.training.tokens import Tokens

__all__ = ["Replica", "Trunk", "one_thread_each"]

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_T = TypeVar("_T")
_R = TypeVar("_R")

_CHUNK = 64
_CLOSE = 1e-3


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Within the block torch takes one thread per operation, in the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Trunk:
    """Texts, tokenised and run through the frozen layers, ready for many trainings."""

    def __init__(
        self,
        engine: ArrowEngine,
        texts: Sequence[str],
        targets: Sequence[str],
        *,
        layers: int = 0,
        threads: int = 1,
        role: str = "query",
        max_bytes: int = ACTIVATIONS,
    ) -> None:
        """Run the texts once, in `threads` threads.

        Args:
            targets: Linear layers to adapt, by exact name or by suffix.
            layers: how many of the uppermost encoder layers to adapt; 0 for all of them. A model
                whose layers cannot be told apart is adapted, and run, as a whole.

        Raises:
            NoMatchingModuleError: a target means no Linear layer of the model.
            TrainingError: there are no texts, or the model does not give the same vectors twice.
        """
        if not texts:
            raise TrainingError("there are no texts to train a body on")
        self.engine, self.role, self.texts = engine, role, tuple(texts)
        self.lengths: Ints = np.array(engine.token_counts(texts, role=role), np.int64)
        """(n,) tokens of each text."""
        bare = _copy(engine.module)
        linears = [n for n, m in bare.named_modules() if isinstance(m, nn.Linear)]
        prefix, depth = _stack(bare, linears)
        first = max(0, depth - layers) if layers and depth else 0
        chosen = [
            name
            for name in select_targets(targets, linears)
            if not first or _layer_of(name, prefix) >= first
        ]
        if not chosen:
            raise NoMatchingModuleError(f"no target lies in the uppermost {layers} layers")
        self.targets = tuple(chosen)
        """Full names of the layers that get adapters."""
        self.skipped = max(0, min(_layer_of(name, prefix) for name in chosen))
        """Frozen layers that do not run any more: those under the lowest adapted one."""
        kept = int(self.lengths.sum()) * engine.dim * 4
        if self.skipped and kept > max_bytes:
            log.info("%d MB of activations are too many to keep", kept >> 20)
            self.skipped = 0
        self.prefix = prefix
        self._states: list[Tensor] = []
        self._tokenizer = threading.Lock()
        self._tokens = Tokens(self.texts, self.lengths, self.prepare)
        self.threads = max(1, threads)
        self._replicas: SimpleQueue[Replica] = SimpleQueue()
        for _ in range(self.threads):
            self._replicas.put(Replica(self))
        if self.skipped:
            self._fill()

    def each(self, work: Callable[[Replica, _T], _R], items: Sequence[_T]) -> list[_R]:
        """`work(replica, item)` for every item, in the trunk's threads; results in their order.

        The first error is raised, once what had begun has ended; what had not is not begun.
        """

        def run(item: _T) -> _R:
            replica = self._replicas.get()
            try:
                return work(replica, item)
            finally:
                self._replicas.put(replica)

        with ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(run, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def prepare(self, texts: Sequence[str]) -> dict[str, Any]:
        """Model input of any texts; one thread at a time, as tokenizers want it."""
        with self._tokenizer:
            return self.engine.prepare(texts, role=self.role)

    def features(self, rows: Ints) -> tuple[dict[str, Any], Tensor | None]:
        """Model input of these texts, and what the frozen layers made of it (k, tokens, width)."""
        features = self._tokens.batch(rows)
        if not self._states:
            return features, None
        mask = features["attention_mask"].bool()
        first = self._states[0]
        states = first.new_zeros((*mask.shape, first.shape[-1]))
        states[mask] = torch.cat([self._states[row] for row in rows])
        return features, states

    def _fill(self) -> None:
        order = np.argsort(self.lengths, kind="stable")
        chunks = [order[i : i + _CHUNK] for i in range(0, len(order), _CHUNK)]
        probe = order[:: max(1, len(order) // 8)][:8]
        with torch.inference_mode():
            expected = self.engine.forward(self.features(probe)[0], role=self.role)
        states: dict[int, Tensor] = {}
        for chunk, found in zip(chunks, self.each(Replica.lower, chunks), strict=True):
            states |= dict(zip(chunk.tolist(), found, strict=True))
        self._states = [states[row] for row in range(len(self.texts))]
        (again,) = self.each(lambda replica, rows: replica.vectors(rows), [probe])
        if not np.allclose(again, expected.float().cpu().numpy(), atol=_CLOSE):
            raise TrainingError(
                "the model's upper layers do not go on from what the lower ones gave"
            )


class Replica:
    """The engine's model with modules of its own and shared weights. Not for several threads."""

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk
        self.module: nn.Module = _copy(trunk.engine.module)
        self.module.eval()
        self.manager = LoRAManager(self.module)
        self._states: Tensor | None = None
        self._wraps = False
        self._lower: list[nn.Module] = []
        if trunk.skipped:
            stack = self.module.get_submodule(trunk.prefix)
            self._lower = list(stack.children())[: trunk.skipped]
            self._next = list(stack.children())[trunk.skipped]

    def attach(self, config: LoRAConfig, initial: Any = None) -> dict[str, nn.Parameter]:
        """Put fresh adapters into the trunk's targets; the trainable parameters by name."""
        return self.manager.attach_trainable(config, initial=initial)

    def forward(self, rows: Ints) -> Tensor:
        """(k, dim) embeddings of the trunk's texts `rows`, with gradients where they are on."""
        features, self._states = self._trunk.features(rows)
        with self._resumed(self._states is not None):
            out: Tensor = self.module(dict(features), task=self._trunk.role)["sentence_embedding"]
        return out

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(k, dim) embeddings of any texts, through all layers, gradients where they are on."""
        features = self._trunk.prepare(texts)
        out: Tensor = self.module(features, task=self._trunk.role)["sentence_embedding"]
        return out

    def vectors(self, rows: Ints, *, batch: int = _CHUNK) -> Floats:
        """(k, dim) float32 embeddings, without gradients, in batches of like length."""
        rows = np.asarray(rows, np.int64)
        order = np.argsort(self._trunk.lengths[rows], kind="stable")
        out = np.empty((len(rows), self._trunk.engine.dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                part = order[start : start + batch]
                out[part] = self.forward(rows[part]).float().cpu().numpy()
        return out

    def lower(self, rows: Ints) -> list[Tensor]:
        """What the frozen layers give, per text (tokens, width)."""
        features, _ = self._trunk.features(rows)
        found: list[Tensor] = []

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise _EnoughError

        def look(_: nn.Module, __: Any, output: Any) -> None:
            self._wraps = isinstance(output, tuple)

        hooks = (
            self._next.register_forward_pre_hook(keep, with_kwargs=True),
            self._lower[-1].register_forward_hook(look),
        )
        try:
            with torch.inference_mode(), contextlib.suppress(_EnoughError):
                self.module(dict(features), task=self._trunk.role)
        finally:
            for hook in hooks:
                hook.remove()
        mask = features["attention_mask"].bool()
        with torch.no_grad():
            # Out of inference mode, or training could not use them.
            return [state[kept].clone() for state, kept in zip(found[0], mask, strict=True)]

    @contextlib.contextmanager
    def _resumed(self, resumed: bool) -> Iterator[None]:
        """Within the block the frozen layers pass on what was kept instead of working."""
        if not resumed:
            yield
            return

        def give(*_: Any, **__: Any) -> Any:
            return (self._states,) if self._wraps else self._states

        for layer in self._lower:
            layer.forward = give
        try:
            yield
        finally:
            for layer in self._lower:
                del layer.forward


class _EnoughError(Exception):
    """The frozen layers have run; the others need not."""


def _copy(module: nn.Module) -> nn.Module:
    """Modules of their own over the same weights, without the adapters that may be in them."""
    memo: dict[int, Any] = {id(t): t for t in (*module.parameters(), *module.buffers())}
    tokenizer = getattr(module, "tokenizer", None)
    memo[id(tokenizer)] = tokenizer
    for inside in module.modules():
        if isinstance(inside, LoRALinear):
            memo[id(inside)] = copy.deepcopy(inside.base, memo)
    return copy.deepcopy(module, memo)


def _stack(module: nn.Module, linears: Sequence[str]) -> tuple[str, int]:
    """Name and depth of the list of encoder layers; ("", 0) where there is none like that."""
    best = ("", 0)
    for name, found in module.named_modules():
        if not isinstance(found, nn.ModuleList) or len({type(layer) for layer in found}) != 1:
            continue
        inside = all(any(t.startswith(f"{name}.{i}.") for t in linears) for i in range(len(found)))
        if inside and len(found) > best[1]:
            best = (name, len(found))
    return best


def _layer_of(name: str, prefix: str) -> int:
    """The number of the encoder layer that a module lies in; -1 where it is in none."""
    if not prefix or not name.startswith(prefix + "."):
        return -1
    return int(name[len(prefix) + 1 :].split(".", 1)[0])
