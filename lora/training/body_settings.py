"""What a body's training is told: what is tried, and for how long; and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lora.adapter import Adapter
from lora.training.body_fit import BodyConfig
from lora.training.body_plan import Plan
from lora.training.errors import ConfigError
from lora.training.head import MAX_PASSAGES, MAX_QUERIES, HeadConfig
from lora.training.memory import ACTIVATIONS

__all__ = ["BodyChoice", "BodySweep", "TrainedBody"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BodySweep:
    """What is trained and tried, and for how long."""

    config: BodyConfig = field(default_factory=BodyConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    """How the head that training starts from is fitted."""
    head_steps: int = 30
    bodies: tuple[float, ...] = (0.6, 1.0)
    """Shares of the trained body that are tried."""
    heads: tuple[float, ...] = (0.6, 1.0, 1.4)
    """Shares of the head trained with it."""
    alone: tuple[float, ...] = (0.3, 0.55, 0.8, 1.0)
    """Shares of the head fitted without a body."""
    time_budget_s: float | None = None
    """Seconds for everything; None for as long as it takes."""
    threads: int = 2
    """Trainings at once, a thread each."""
    max_passages: int = 1536
    """Passages that a softmax runs over where there are many."""
    max_rank: int = 128
    """Largest rank of a head."""
    max_queries: int = MAX_QUERIES
    """Queries trained on at most, those that people gave before any other."""
    passage_cap: int = MAX_PASSAGES
    """Passages that a softmax runs over at most, however many are relevant."""
    soft_temperature: float = 1.0
    """Of the target distributions; 1 takes a teacher's grades as they are."""
    max_activations: int = ACTIVATIONS
    """Bytes of the frozen layers' output that are kept at most."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.bodies or not self.heads or min(*self.bodies, *self.heads, *self.alone) <= 0:
            raise ConfigError("a body needs shares above 0 to try, of itself and of its head")
        if self.threads < 1 or self.head_steps < 1:
            raise ConfigError("threads and head_steps should be at least 1")


@dataclass(frozen=True)
class BodyChoice:
    """Shares of body and head; 0 leaves one out, and both are 0 where no change is best."""

    body: float
    head: float
    score: float
    """MRR@10 on inner folds, 0 to 1."""


@dataclass(frozen=True, eq=False)
class TrainedBody:
    """The modules of a candidate, and what its gate needs."""

    modules: Mapping[str, Adapter]
    """Fitted on all folds, `embedding` the head; empty where no change was the best choice."""
    folds: Mapping[int, Mapping[str, Adapter]]
    """Per judged fold, what was fitted, and its shares chosen, without that fold."""
    vectors: Floats
    """(k, dim) vectors of the arena's queries by their fold's model; base where not judged."""
    judged: npt.NDArray[np.bool_]
    """(k,) which of them a fold model judges."""
    choice: BodyChoice
    """The shares of the final fit."""
    plan: Plan
    loss: float
    seconds: float
