"""Trains one adapter, from a dataset or event by event, for whoever has no fleet."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lora.adapter import HEAD, Adapter
from lora.config import LoRAConfig
from lora.engine import ArrowEngine
from lora.interop import load_adapters, save_adapters
from lora.layer import LoRALinear
from lora.training.body_fit import BodyConfig, Objective, Optimizer, bend_tensor, fit
from lora.training.body_trunk import Replica, Trunk
from lora.training.dataset import TrainingSet
from lora.training.errors import ConfigError, NothingToLearn, TrainingError
from lora.training.head import HeadProblem
from lora.training.progress import Progress

__all__ = ["LearningExample", "LoRATrainer", "TrainingReport"]

Ints = npt.NDArray[np.int64]

CHECKPOINT = "checkpoint.safetensors"

_REPLAY = 64
"""Events that are remembered for the steps of later ones."""

_EVENT_BATCH = 16
_STATE = "consonance.training"


class LearningExample(Protocol):
    """What `process_learning_event` needs of an event; `schemas.LearningEvent` has it."""

    @property
    def prompt(self) -> str:
        """The query."""
        ...

    @property
    def positives(self) -> Sequence[str]:
        """Passages that answer it."""
        ...

    @property
    def negatives(self) -> Sequence[str]:
        """Passages that do not."""
        ...


@dataclass(frozen=True)
class TrainingReport:
    """What one `train` did."""

    epochs: int
    """Passes made, those before a resumption included."""
    steps: int
    losses: tuple[float, ...]
    """Mean cross entropy of each epoch, in nats."""


class LoRATrainer:
    """An adapter in training on the query side, against passages that stay as they are.

    The engine's own model is left alone: the trainer works on a copy that shares its weights. The
    target `embedding` in the configuration adds a head. Not for several threads at once.

        trainer = LoRATrainer(ArrowEngine(), LoRAConfig(rank=8, alpha=16))
        trainer.train(dataset)
        trainer.save_adapter("skill.safetensors")
    """

    def __init__(
        self,
        engine: ArrowEngine,
        config: LoRAConfig | None = None,
        *,
        epochs: int = 5,
        batch: int = 16,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.01,
        temperature: float = 0.05,
    ) -> None:
        """Prepare a fresh adapter, which changes nothing yet.

        Args:
            epochs: passes over a dataset.
            batch: queries of a step.
            learning_rate: AdamW's step at its highest.
            weight_decay: AdamW's decoupled decay towards "no change".
            temperature: τ of the softmax over cosines.

        Raises:
            NoMatchingModuleError: a target means no Linear layer of the model.
            ConfigError: a setting is out of range.
        """
        self.engine = engine
        self.config = config or LoRAConfig(dim=engine.dim)
        if self.config.dim != engine.dim:
            raise ConfigError(
                f"the configuration is for embeddings of {self.config.dim} dimensions, the model "
                f"gives {engine.dim}"
            )
        self._fit = BodyConfig(
            temperature=temperature,
            learning_rate=learning_rate,
            head_learning_rate=learning_rate,
            weight_decay=weight_decay,
            epochs=epochs,
            batch=batch,
        )
        names = [name for name in self.config.target_modules if name != HEAD]
        self._replica: Replica | None = None
        self._device = engine.device
        self._trunk = Trunk(engine, ["-"], names, layers=0) if names else None
        if self._trunk is not None:
            self._replica = Replica(self._trunk)
        self._body: dict[str, nn.Parameter] = {}
        self._head: dict[str, nn.Parameter] = {}
        self._head_alpha = self.config.alpha_of(HEAD)
        self._start(None)
        self._events: deque[_Remembered] = deque(maxlen=_REPLAY)
        self._online: Optimizer | None = None
        self.training_count = 0
        """Learning events processed."""

    @property
    def num_params(self) -> int:
        """Numbers in the adapter."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name; nothing else has gradients."""
        return {**self._body, **self._head}

    def adapters(self) -> dict[str, Adapter]:
        """Copies of the adapters as they are now, by module name, for a card."""
        made = self._replica.manager.trained() if self._replica else {}
        if self._head:
            a, b = (p.detach().cpu().numpy().copy() for p in self._head.values())
            made[HEAD] = Adapter(a, b, a.shape[1], self._head_alpha)
        return made

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, dim) float32 vectors of queries with the adapter as it is now."""
        with torch.no_grad():
            found: npt.NDArray[np.float32] = self._encode(list(texts)).float().cpu().numpy()
        return found

    def process_learning_event(self, event: LearningExample) -> float:
        """One step on an event, beside a sample of those before it; the loss in nats.

        Every known passage that is not relevant to a query counts against it.

        Raises:
            NothingToLearn: the event has no positive passage.
        """
        if not event.positives:
            raise NothingToLearn("a learning event needs at least one positive passage")
        known = list(dict.fromkeys([*event.positives, *event.negatives]))
        vectors = self.engine.encode(known, role="document")
        self._events.append(_Remembered(event.prompt, frozenset(event.positives), known, vectors))
        generator = np.random.default_rng((self.config.seed, self.training_count))
        others = len(self._events) - 1
        drawn = generator.choice(others, min(others, _EVENT_BATCH - 1), replace=False)
        chosen = [self._events[-1], *(self._events[i] for i in sorted(drawn.tolist()))]
        if self._online is None:
            self._online = Optimizer(self._body, self._head, self._fit, None)
        loss = _event_loss(
            self._encode([item.prompt for item in chosen]), chosen, self._fit.temperature
        )
        self._online.step(loss)
        self.training_count += 1
        return float(loss.detach())

    def train(
        self,
        dataset: TrainingSet,
        *,
        checkpoint: str | Path | None = None,
        progress: Progress | None = None,
    ) -> TrainingReport:
        """Train on all queries of a dataset; the same seed gives the same adapter.

        Args:
            checkpoint: a folder, written after each epoch. Where it holds one of this very
                training, it goes on from there, to the same result as without the interruption.

        Raises:
            NothingToLearn: no query has a relevant passage.
            TrainingError: the checkpoint cannot be read, or is of another training.
        """
        problem = HeadProblem(dataset, seed=self.config.seed)
        objective = Objective(problem, self._fit.temperature)
        members = np.arange(len(problem.rows))
        texts = [dataset.queries[row] for row in problem.rows]
        lengths = np.array(self.engine.token_counts(texts), np.int64)
        steps = self._fit.epochs * -(-len(members) // self._fit.batch)
        optimizer = Optimizer(self._body, self._head, self._fit, steps)
        file = None if checkpoint is None else Path(checkpoint) / CHECKPOINT
        identity = self._identity(dataset)
        losses: list[float] = []
        if file is not None and file.exists():
            losses = self._resume(file, optimizer, identity)

        def told(loss: float) -> None:
            if progress is not None:
                progress(optimizer.done, steps, loss)

        def encode(rows: Ints) -> Tensor:
            return self._encode([texts[row] for row in rows])

        for epoch in range(len(losses), self._fit.epochs):
            with self._dropping(epoch):
                loss = fit(
                    encode,
                    optimizer,
                    objective,
                    members,
                    lengths,
                    self._fit,
                    seed=self.config.seed,
                    epoch=epoch,
                    on_step=told,
                )
            losses.append(loss)
            if file is not None:
                self._save(file, optimizer, identity, losses)
        return TrainingReport(len(losses), optimizer.done, tuple(losses))

    def save_adapter(self, path: str | Path) -> None:
        """Write the adapter as safetensors: `<module>.lora_a`, `<module>.lora_b`, alphas."""
        save_adapters(self.adapters(), path)

    def load_adapter(self, path: str | Path) -> None:
        """Take up an adapter that `save_adapter` wrote, and train on from it.

        Raises:
            LoRAError: the file cannot be read, or does not fit the model.
            ConfigError: its modules are not those of the configuration.
        """
        loaded = load_adapters(path)
        expected = set(self.adapters())
        if set(loaded) != expected:
            odd = sorted(set(loaded) ^ expected)
            raise ConfigError(f"{Path(path).name} does not hold the modules expected: {odd[0]}")
        self._start(loaded)
        self._online = None

    def _start(self, initial: Mapping[str, Adapter] | None) -> None:
        given = dict(initial or {})
        if self._replica is not None:
            if self._body:
                self._replica.manager.detach()
            self._body = self._replica.attach(self.config, given or None)
        if HEAD in self.config.target_modules:
            if HEAD in given:
                a, b = (torch.from_numpy(factor.copy()) for factor in given[HEAD].factors)
                self._head_alpha = given[HEAD].alpha
            else:
                rank, dim = self.config.rank_of(HEAD), self.engine.dim
                generator = torch.Generator().manual_seed(self.config.seed)
                a = (torch.rand(dim, rank, generator=generator) * 2 - 1) * dim**-0.5
                b = torch.zeros(rank, dim)
            self._head = {
                f"{HEAD}.lora_a": nn.Parameter(a.to(self._device)),
                f"{HEAD}.lora_b": nn.Parameter(b.to(self._device)),
            }

    def _encode(self, texts: Sequence[str]) -> Tensor:
        if self._replica is not None:
            vectors = self._replica.encode(texts)
        else:
            vectors = torch.from_numpy(self.engine.encode(texts)).to(self._device)
        if self._head:
            a, b = self._head.values()
            vectors = bend_tensor(vectors, a, b, self._head_alpha / a.shape[1])
        return vectors

    def _dropping(self, epoch: int) -> Any:
        """The adapters' dropout, drawn from this seed and epoch alone."""
        if self._replica is not None:
            for module in self._replica.module.modules():
                if isinstance(module, LoRALinear):
                    module.training = self.config.dropout > 0
        return _Seeded(self.config.seed, epoch)

    def _identity(self, dataset: TrainingSet) -> str:
        """What a checkpoint must have been made with."""
        digest = hashlib.sha256(repr((self.config, self._fit)).encode())
        parts: tuple[npt.NDArray[Any], ...] = (
            dataset.query_vectors,
            dataset.passage_vectors,
            dataset.weights,
            dataset.label_query,
            dataset.label_passage,
            dataset.label_value,
        )
        for part in parts:
            digest.update(part.tobytes())
        for texts in (dataset.queries, dataset.label_source):
            digest.update("\0".join(texts).encode("utf-8", "surrogatepass"))
        digest.update(self.engine.base_model.sha256.encode())
        return digest.hexdigest()

    def _save(self, file: Path, optimizer: Optimizer, identity: str, losses: list[float]) -> None:
        state = {"identity": identity, "losses": losses, "steps": optimizer.done}
        raw = safetensors.torch.save(optimizer.state(), {_STATE: json.dumps(state)})
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".writing")
        with beside.open("wb") as handle:
            handle.write(raw)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(file)

    def _resume(self, file: Path, optimizer: Optimizer, identity: str) -> list[float]:
        try:
            with safe_open(file, "pt") as opened:
                state = json.loads((opened.metadata() or {})[_STATE])
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            made_with, losses = state["identity"], [float(loss) for loss in state["losses"]]
            done = int(state["steps"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as e:
            raise TrainingError(f"the checkpoint {file} cannot be read: {e}") from e
        if made_with != identity:
            raise TrainingError(
                f"the checkpoint {file} is of another training: other data, settings or model"
            )
        try:
            optimizer.restore(tensors, done)
        except (KeyError, RuntimeError) as e:
            raise TrainingError(f"the checkpoint {file} does not fit this training: {e}") from e
        return losses


@dataclass(frozen=True, eq=False)
class _Remembered:
    prompt: str
    positives: frozenset[str]
    passages: list[str]
    vectors: npt.NDArray[np.float32]


class _Seeded:
    """Within the block torch's own random numbers come from a seed; afterwards they go on."""

    def __init__(self, seed: int, epoch: int) -> None:
        self._seed = int(np.random.default_rng((seed, epoch)).integers(1 << 62))

    def __enter__(self) -> None:
        self._before = torch.get_rng_state()
        torch.manual_seed(self._seed)

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self._before)


def _event_loss(vectors: Tensor, events: Sequence[_Remembered], temperature: float) -> Tensor:
    """Mean cross entropy over all passages that the events know; targets share the positives."""
    rows: dict[str, npt.NDArray[np.float32]] = {}
    for event in events:
        rows.update(zip(event.passages, event.vectors, strict=True))
    names = list(rows)
    passages = torch.from_numpy(np.stack([rows[name] for name in names])).to(vectors.device)
    targets = torch.tensor(
        [[float(name in event.positives) for name in names] for event in events],
        device=vectors.device,
    )
    targets = targets / targets.sum(dim=1, keepdim=True)
    unit = nn.functional.normalize(vectors.float(), dim=-1)
    logits = unit @ nn.functional.normalize(passages, dim=-1).T / temperature
    loss: Tensor = -(targets * nn.functional.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
    return loss
