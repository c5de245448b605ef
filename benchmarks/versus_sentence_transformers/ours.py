"""Ours: the factory's own training child on the feedback, a head first and a body after it.

What is timed is both processes from start to end: imports, the model, sweeps and the gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks.kit.child import run_child
from benchmarks.versus_sentence_transformers.clock import Clock, of_children
from lora.card import BaseModel, LoRACard, LoRAFormat
from lora.training.dataset import TrainingSet
from services.factory.job import (
    CANDIDATE,
    FOLDS,
    BaseModelRef,
    ChampionRef,
    Job,
    Result,
    read_result,
    write_job,
)
from services.runtime.settings import FactorySettings

__all__ = ["Learned", "Phase", "learn"]

SKILL = "versus"
PHASES: tuple[Literal["head", "body"], ...] = ("head", "body")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Phase:
    """One training of the factory."""

    result: Result
    card: LoRACard | None
    """The candidate, accepted or not; None where no change was best."""
    seconds: float
    """Of the whole process."""


@dataclass(frozen=True, eq=False)
class Learned:
    """Both phases, and what is served after them."""

    head: Phase
    body: Phase

    @property
    def served(self) -> LoRACard | None:
        """The last candidate that passed the gate; None: the base model."""
        accepted = [it.card for it in (self.head, self.body) if it.result.accepted]
        return accepted[-1] if accepted else None

    @property
    def ungated(self) -> LoRACard | None:
        """What the last phase made, whether it passed or not."""
        return self.body.card or self.head.card

    @property
    def seconds(self) -> float:
        """Of both."""
        return self.head.seconds + self.body.seconds


def learn(
    folder: Path,
    data: TrainingSet,
    background: Floats,
    base_model: BaseModel,
    *,
    model: str | None,
    threads: int,
    seed: int,
    clock: Clock = "wall",
    factory: FactorySettings | None = None,
) -> Learned:
    """Train and judge on this feedback as the factory would; raises `RuntimeError` with its words.

    `background` (z, dim): base vectors of the background questions; `factory`: settings other than
    the defaults, time budgets among them.
    """
    digest = data.write(folder)
    np.save(folder / "background.npy", background)
    settings = factory or FactorySettings()
    now = of_children(clock)
    champion: ChampionRef | None = None
    phases = []
    attempts = 0
    for phase in PHASES:
        place = folder / phase
        place.mkdir()
        job = Job(
            phase=phase,
            task_id=SKILL,
            skill=SKILL,
            domain=SKILL,
            version=1 if champion is None else champion.version + 1,
            dataset=str(folder / f"{digest.removeprefix('sha256:')}.parquet"),
            dataset_digest=digest,
            base_model=BaseModelRef(base_model.id, base_model.sha256),
            background=str(folder / "background.npy"),
            model=model,
            champion=champion,
            parents=() if champion is None else (champion.digest,),
            seed=seed,
            attempts=attempts,
            time_budget_s=(
                settings.head_time_budget if phase == "head" else settings.body_time_budget
            ),
            threads=threads,
            settings={"temperature": settings.temperature},
        )
        write_job(place, job)
        begun = now()
        run_child("services.factory.child", place, whose="the factory's", threads=threads)
        seconds = now() - begun
        result = read_result(place)
        card = LoRAFormat.read(place / CANDIDATE) if result.candidate else None
        phases.append(Phase(result, card, seconds))
        attempts += 1
        if result.accepted and card is not None:
            attempts = 0  # as the factory counts: what follows is judged against another version
            champion = ChampionRef(
                card=str(place / CANDIDATE),
                digest=card.digest or "",
                version=card.version,
                folds=str(place / FOLDS),
            )
    return Learned(*phases)
