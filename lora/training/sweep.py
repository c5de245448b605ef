"""Fits a head with settings chosen on inner folds, and its five fold models beside it.

Nested cross-validation by pairs: the model fitted without folds {i, j} shows what a setting is
worth to the outer fold i (on j) and to the outer fold j (on i), so ten fits serve twenty. Along one
fit the checkpoints are early stopping, and the scale of the change is tried afterwards for nothing.
"No change" is always among the candidates.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lora.card import Adapter
from lora.training.dataset import TrainingSet
from lora.training.errors import ConfigError, NothingToLearn
from lora.training.gate import CUTOFF, Arena, unit
from lora.training.head import (
    MAX_PASSAGES,
    MAX_QUERIES,
    Fit,
    HeadConfig,
    HeadProblem,
    fit_head,
    head_adapter,
)
from lora.training.progress import Progress

__all__ = ["Choice", "SweepConfig", "TrainedHead", "train_head"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

GRID = (
    HeadConfig(),
    HeadConfig(weight_decay=10.0),
    HeadConfig(taught_weight=0.2),  # where no teacher took part there is nothing to doubt
    HeadConfig(temperature=0.03, weight_decay=10.0),
    HeadConfig(rank=32),
    HeadConfig(learning_rate=3e-3, weight_decay=5.0),
)


@dataclass(frozen=True)
class SweepConfig:
    """What is tried, and for how long."""

    grid: tuple[HeadConfig, ...] = GRID
    """Settings, the most trusted first: the later ones are tried while time is left."""
    checkpoints: tuple[int, ...] = (5, 10, 15, 20, 30, 45)
    """Steps at which stopping is tried."""
    scales: tuple[float, ...] = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2)
    """Shares of the change that are tried."""
    time_budget_s: float = 15.0
    """Seconds for everything, kept by trying fewer settings, pairs of folds and steps."""
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
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.grid or not self.checkpoints or not self.scales:
            raise ConfigError("a sweep needs at least one setting, one checkpoint and one scale")
        if min(self.checkpoints) < 1 or min(self.scales) <= 0:
            raise ConfigError("checkpoints and scales should be above 0")


@dataclass(frozen=True)
class Choice:
    """A setting with its checkpoint and scale; scale 0 is no change."""

    config: HeadConfig
    step: int
    scale: float
    score: float
    """MRR@10 on inner folds, 0 to 1."""


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """The head of a candidate, and what its gate needs."""

    adapter: Adapter | None
    """Fitted on all folds; None where no change was the best choice."""
    folds: Mapping[int, Adapter | None]
    """Per fold, the model that was fitted, and its settings chosen, without that fold."""
    vectors: Floats
    """(k, dim) unit vectors of the arena's queries, each bent by its fold's model."""
    choice: Choice
    """The setting of the final fit."""
    loss: float
    seconds: float
    tried: int
    """Settings of the grid that there was time for."""
    pairs: int
    """Pairs of folds left out together, on which settings were chosen."""


def train_head(
    data: TrainingSet,
    arena: Arena,
    config: SweepConfig | None = None,
    *,
    query_vectors: npt.ArrayLike | None = None,
    progress: Progress | None = None,
) -> TrainedHead:
    """Train a head on everything, and five fold models for the gate.

    `arena` holds the real queries that are judged. `query_vectors` (n, dim) replace the base
    vectors, for a head upon a body. Raises `NothingToLearn` without two folds to learn from.

    The same seed gives the same bits on the same machine wherever as much is tried: the time budget
    decides how many settings, pairs of folds and steps that is by the speed it finds, and what it
    came to is part of the result.
    """
    return _Sweep(data, arena, config or SweepConfig(), query_vectors, progress).run()


class _Sweep:
    def __init__(
        self,
        data: TrainingSet,
        arena: Arena,
        config: SweepConfig,
        query_vectors: npt.ArrayLike | None,
        progress: Progress | None,
    ) -> None:
        self.started = time.monotonic()
        self.config, self.arena, self.progress = config, arena, progress
        self.problem = HeadProblem(
            data,
            max_passages=config.max_passages,
            max_rank=config.max_rank,
            max_queries=config.max_queries,
            passage_cap=config.passage_cap,
            soft_temperature=config.soft_temperature,
            query_vectors=query_vectors,
            seed=config.seed,
        )
        given = data.query_vectors if query_vectors is None else np.asarray(query_vectors)
        self.vectors: Floats = unit(given[arena.rows].astype(np.float32))  # (k, dim)
        self.along: Floats = arena.passages @ self.problem.basis.T  # (m, rank)
        self.folds = sorted({int(fold) for fold in arena.folds})
        if len(self.folds) < 2 or len(set(self.problem.folds.tolist())) < 2:
            raise NothingToLearn("real feedback lies in fewer than two folds: too little to judge")
        self.grid = tuple(dict.fromkeys(self._effective(setting) for setting in config.grid))
        self.rows = {fold: np.flatnonzero(arena.folds == fold) for fold in self.folds}
        self.base = {fold: self.vectors[self.rows[fold]] @ arena.passages.T for fold in self.folds}
        self.scales = (0.0, *config.scales)
        self.checkpoints = sorted(set(config.checkpoints))
        self.done = 0

    def _effective(self, setting: HeadConfig) -> HeadConfig:
        """The setting without what makes no difference here, so that nothing is tried twice."""
        if not self.problem.taught.any():
            setting = replace(setting, taught_weight=1.0)
        return setting if setting.rank < self.problem.rank else replace(setting, rank=0)

    def run(self) -> TrainedHead:
        tables, tried = self._tables()
        outer: dict[int, Adapter | None] = {}
        vectors = self.vectors.copy()
        for fold in self.folds:
            choice = self._choose(tables, [pair for pair in tables if fold in pair], fold)
            fit = self._fit(choice, (fold,))
            outer[fold] = head_adapter(fit, choice.scale) if fit else None
            if fit:
                rows = self.rows[fold]
                vectors[rows] = fit.apply(self.vectors[rows], choice.scale)
        final = self._choose(tables, list(tables), None)
        fit = self._fit(final, ())
        return TrainedHead(
            adapter=head_adapter(fit, final.scale) if fit else None,
            folds=outer,
            vectors=vectors,
            choice=final,
            loss=fit.loss if fit else 0.0,
            seconds=time.monotonic() - self.started,
            tried=tried,
            pairs=len(tables),
        )

    def _tables(self) -> tuple[dict[tuple[int, int], dict[int, list[Floats]]], int]:
        """Per pair of folds, per judged fold: a table (checkpoint, scale) of sums per setting."""
        pairs = list(itertools.combinations(self.folds, 2))
        tables: dict[tuple[int, int], dict[int, list[Floats]]] = {}
        budget = self.config.time_budget_s
        spent = 0.0
        tried = 0
        for setting in self.grid:
            begun = time.monotonic()
            elapsed = begun - self.started
            # One more round, and the fold models and the final fit after it, must fit in.
            if tried and elapsed + 1.9 * spent > budget:
                break
            for number, pair in enumerate(pairs):
                self._measure(setting, pair, tables)
                if not tried and number == 0 and len(pairs) == 10:
                    pairs[1:] = self._affordable(
                        pairs[1:], time.monotonic() - begun, budget - elapsed
                    )
            spent = time.monotonic() - begun
            tried += 1
        # What is the same here as another setting was tried with it.
        return tables, len(self.config.grid) if tried == len(self.grid) else tried

    def _affordable(
        self, pairs: list[tuple[int, int]], once: float, left: float
    ) -> list[tuple[int, int]]:
        """The pairs there is time for, when one took `once` seconds; and fewer steps if need be."""
        # Fold models and the final fit see more queries than a pair's: together nine more pairs.
        if 19 * once <= left:
            return pairs
        # A ring of five pairs still gives every fold two inner folds.
        longest = self.checkpoints[-1] * left / (13 * once)
        self.checkpoints = [c for c in self.checkpoints if c <= longest] or self.checkpoints[:2]
        return [pair for pair in pairs if pair[1] - pair[0] in (1, 4)]

    def _measure(
        self,
        setting: HeadConfig,
        pair: tuple[int, int],
        tables: dict[tuple[int, int], dict[int, list[Floats]]],
    ) -> None:
        members = self.problem.without(pair)
        if not len(members):
            return
        fits = fit_head(
            self.problem,
            setting,
            members=members,
            checkpoints=self.checkpoints,
            seed=self.config.seed,
        )
        self._tell(fits[max(fits)].loss)
        found = tables.setdefault(pair, {})
        for fold in pair:
            found.setdefault(fold, []).append(self._table(fits, fold))

    def _table(self, fits: Mapping[int, Fit], fold: int) -> Floats:
        """(checkpoints, scales) sums of reciprocal ranks of the fold's queries."""
        rows = self.rows[fold]
        relevant, hidden = self.arena.masks(rows)
        table = np.zeros((len(fits), len(self.scales)), np.float32)
        for line, step in enumerate(sorted(fits)):
            fit = fits[step]
            change = (self.vectors[rows] @ fit.a) @ self.along[:, : len(fit.b)].T
            for column, scale in enumerate(self.scales):
                if scale == 0.0 and line:
                    table[line, column] = table[0, column]
                    continue
                scores = self.base[fold] + np.float32(scale) * change
                ranks = self.arena.rank_scores(scores, relevant, hidden)
                table[line, column] = np.where(ranks <= CUTOFF, 1.0 / ranks, 0.0).sum()
        return table

    def _choose(
        self,
        tables: Mapping[tuple[int, int], Mapping[int, Sequence[Floats]]],
        pairs: Sequence[tuple[int, int]],
        outer: int | None,
    ) -> Choice:
        """The best setting by the inner folds of these pairs; the outer fold is never looked at."""
        settings = min(len(lists) for pair in pairs for lists in tables[pair].values())
        stops = self.checkpoints
        total = np.zeros((settings, len(stops), len(self.scales)))
        count = 0
        for pair in pairs:
            for fold, lists in tables[pair].items():
                if fold != outer:
                    total += np.stack([table[: len(stops)] for table in lists[:settings]])
                    count += len(self.rows[fold])
        # argmax takes the first of equals: no change, then the smallest, soonest and most trusted.
        order = total.transpose(2, 1, 0)
        scale, line, setting = np.unravel_index(int(order.argmax()), order.shape)
        return Choice(
            config=self.grid[int(setting)],
            step=stops[int(line)],
            scale=self.scales[int(scale)],
            score=float(order.max()) / max(count, 1),
        )

    def _fit(self, choice: Choice, without: Sequence[int]) -> Fit | None:
        members = self.problem.without(without)
        if choice.scale == 0.0 or not len(members):
            return None
        fit = fit_head(
            self.problem,
            choice.config,
            members=members,
            checkpoints=(choice.step,),
            seed=self.config.seed,
        )[choice.step]
        self._tell(fit.loss)
        return fit

    def _tell(self, loss: float) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, len(self.grid) * 10 + 6, loss)
