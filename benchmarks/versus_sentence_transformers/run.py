"""One run: the same feedback to everyone, the same held-out queries, the same time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.kit.child import run_child
from benchmarks.kit.measure import best_wrong, ranks_of
from benchmarks.learning.data import DataSet, Queries
from benchmarks.learning.reference import Vectors, training_set
from benchmarks.versus_sentence_transformers import theirs
from benchmarks.versus_sentence_transformers.clock import Clock, of_this
from benchmarks.versus_sentence_transformers.ours import Learned, learn
from lora.card import LoRACard
from lora.engine import ArrowEngine
from lora.training.background import background_questions
from lora.training.baseline import fit_full_rank
from lora.training.champion import card_vectors, routes

__all__ = ["ROWS", "Bench", "Run"]

ROWS = {
    "base": "base model",
    "matrix": "full-rank query matrix",
    "theirs_recommended": "sentence-transformers, as recommended",
    "theirs_chosen": "sentence-transformers, settings chosen",
    "ours": "Consonance, what is served (named)",
    "ours_routed": "Consonance, where the router chose it",
    "ours_head": "Consonance, the head, gate or no gate",
    "ours_ungated": "Consonance, the body, gate or no gate",
}
"""What is compared, as the table calls it."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Say = Callable[[str], None]


@dataclass
class Run:
    """What one task, size and seed gave."""

    task: str
    feedback: int
    seed: int
    budget_s: float = 0.0
    """What each of their variants had."""
    ranks: dict[str, Ints] = field(default_factory=dict)
    """Of `ROWS`: ranks (n,) of the held-out queries' passages."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of `ROWS`, where something was trained."""
    routed: float = 0.0
    """Share of the held-out queries that the card would answer unasked, 0 to 1."""
    published: tuple[str, ...] = ()
    """Depths that passed the gate."""
    reasons: tuple[str, ...] = ()
    """What the gate said of head and body."""
    theirs: dict[str, dict[str, object]] = field(default_factory=dict)
    """By variant: steps, epochs, learning rate, seconds to embed the passages anew, trials."""


class Bench:
    """One task with the base vectors of everything that stays the same."""

    def __init__(
        self, name: str, data: DataSet, *, model: str | None, threads: int, clock: Clock = "wall"
    ) -> None:
        self.name, self.data = name, data
        self._model, self._threads, self._clock = model, threads, clock
        self._engine = ArrowEngine(model, threads=threads)
        self._passages = self._engine.encode(data.passages, role="document")
        self._test = self._engine.encode(data.test.texts)
        self._background = self._engine.encode(background_questions())
        self._own = np.array(data.test.own)
        self._spent: dict[int, list[float]] = {}

    def run(self, size: int, seed: int, say: Say, *, theirs_first: bool = False) -> Run:
        """Learn from `size` pieces drawn by `seed`.

        With `theirs_first` their budget is what ours took so far at this size, on average; where
        nothing of that size was run yet ours goes first all the same.
        """
        run = Run(self.name, size, seed)
        given = self.data.train.sample(size, seed)
        vectors = Vectors(self._passages, self._engine.encode(given.texts), self._test)
        run.ranks["base"] = self._ranks(self._test)
        with tempfile.TemporaryDirectory(prefix="versus-") as folder:
            spent = self._spent.setdefault(size, [])
            if theirs_first and spent:
                run.budget_s = float(np.mean(spent))
                self._theirs(run, Path(folder), given, vectors, say)
                spent.append(self._ours(run, Path(folder), given, vectors, say))
            else:
                spent.append(self._ours(run, Path(folder), given, vectors, say))
                run.budget_s = spent[-1]
                self._theirs(run, Path(folder), given, vectors, say)
        return run

    def _ours(self, run: Run, folder: Path, given: Queries, vectors: Vectors, say: Say) -> float:
        say("ours")
        learned = training_set(self.data, given, vectors)
        found = learn(
            folder,
            learned,
            self._background,
            self._engine.base_model,
            model=self._model,
            threads=self._threads,
            seed=run.seed,
            clock=self._clock,
        )
        self._measure(run, found)
        say("the query matrix")
        now = of_this(self._clock)
        begun = now()
        matrix = fit_full_rank(learned, seed=run.seed)
        run.seconds["matrix"] = now() - begun
        run.ranks["matrix"] = self._ranks(matrix.apply(self._test))
        return found.seconds

    def _measure(self, run: Run, found: Learned) -> None:
        run.seconds |= {"ours": found.seconds, "ours_head": found.head.seconds}
        run.published = tuple(
            depth
            for depth, phase in (("head", found.head), ("body", found.body))
            if phase.result.accepted
        )
        run.reasons = (found.head.result.reason, found.body.result.reason)
        named = self._applied(found.served)
        run.ranks["ours"] = self._ranks(named)
        routed = np.zeros(len(named), bool)
        if found.served is not None and found.served.threshold is not None:
            routed = routes(found.served, self._test)
        run.routed = float(routed.mean())
        run.ranks["ours_routed"] = self._ranks(np.where(routed[:, None], named, self._test))
        run.ranks["ours_head"] = self._ranks(self._applied(found.head.card))
        run.ranks["ours_ungated"] = self._ranks(self._applied(found.ungated))

    def _applied(self, card: LoRACard | None) -> Floats:
        if card is None:
            return self._test

        def encode(texts: Sequence[str], card: LoRACard) -> Floats:
            return self._engine.encode_rows(texts, [[card]] * len(texts))

        return card_vectors(card, self.data.test.texts, self._test, encode)

    def _theirs(self, run: Run, folder: Path, given: Queries, vectors: Vectors, say: Say) -> None:
        say(f"theirs, {run.budget_s:.0f} s each")
        work = theirs.Work(
            queries=list(given.texts),
            relevant=list(given.own),
            irrelevant=best_wrong(vectors.feedback, vectors.passages, given.own),
            passages=list(self.data.passages),
            held_out=list(self.data.test.texts),
            held_out_relevant=list(self.data.test.own),
            model=str(self._engine.model_folder),
            budget_s=run.budget_s,
            threads=self._threads,
            seed=run.seed,
            clock=self._clock,
        )
        (folder / theirs.TASK).write_bytes(msgspec.json.encode(work))
        run_child(
            theirs.__name__,
            folder,
            whose="their",
            threads=self._threads,
            HF_HUB_OFFLINE="1",
            TOKENIZERS_PARALLELISM="false",
        )
        kind = list[theirs.Found]
        for found in msgspec.json.decode((folder / theirs.RESULT).read_bytes(), type=kind):
            row = f"theirs_{found.variant}"
            run.ranks[row] = np.array(found.ranks)
            run.seconds[row] = found.seconds
            run.theirs[found.variant] = {
                "steps": found.steps,
                "epochs": found.epochs,
                "learning_rate": found.learning_rate,
                "passages_s": found.passages_s,
                "tried": found.tried,
            }

    def _ranks(self, vectors: Floats) -> Ints:
        return ranks_of(vectors, self._passages, self._own)
