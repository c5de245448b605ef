"""Fits a head with settings chosen on inner folds, and its five fold models beside it.

Nested cross-validation by pairs: the model fitted without folds {i, j} shows what a setting is
worth to the outer fold i (on j) and to the outer fold j (on i), so ten fits serve twenty. Along one
fit the checkpoints are early stopping, and the scale of the change is tried afterwards for nothing.
"No change" is always among the candidates.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lora.card import Adapter
from lora.training.dataset import TrainingSet
from lora.training.errors import NothingToLearn
from lora.training.gate import CUTOFF, Arena, unit
from lora.training.head import (
    Fit,
    HeadConfig,
    HeadProblem,
    fit_head,
    head_adapter,
)
from lora.training.memory import step_bytes
from lora.training.progress import Progress
from lora.training.sweep_config import SMALL, SweepConfig

__all__ = ["Choice", "SweepConfig", "TrainedHead", "train_head"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BESIDE = 64 << 20
"""Bytes that fits which run beside the first one may take: the memory that a training may have is
reckoned with one."""

_T = TypeVar("_T")
_R = TypeVar("_R")


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
        small = self.problem.scores.size <= SMALL
        fits = 1 + BESIDE // step_bytes(*self.problem.scores.shape)
        self.threads = min(max(1, config.threads), fits) if small else 1

    def _effective(self, setting: HeadConfig) -> HeadConfig:
        """The setting without what makes no difference here, so that nothing is tried twice."""
        if not self.problem.taught.any():
            setting = replace(setting, taught_weight=1.0)
        return setting if setting.rank < self.problem.rank else replace(setting, rank=0)

    def run(self) -> TrainedHead:
        tables, tried = self._tables()
        outer: dict[int, Adapter | None] = {}
        vectors = self.vectors.copy()
        final = self._choose(tables, list(tables), None)
        jobs: list[tuple[Choice, tuple[int, ...]]] = [(final, ())]
        for fold in self.folds:
            pairs = [pair for pair in tables if fold in pair]
            jobs.append((self._choose(tables, pairs, fold), (fold,)))
        fit, *fits = self._each(lambda job: self._fit(*job), jobs)
        for fold, (choice, _), found in zip(self.folds, jobs[1:], fits, strict=True):
            outer[fold] = head_adapter(found, choice.scale) if found else None
            if found:
                rows = self.rows[fold]
                vectors[rows] = found.apply(self.vectors[rows], choice.scale)
        for made in (fit, *fits):
            if made:
                self._tell(made.loss)
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
            first = 0
            if not tried and len(pairs) == 10:  # one alone shows what there is time for
                self._enter(pairs[0], self._measure(setting, pairs[0]), tables)
                first, once = 1, time.monotonic() - begun
                pairs[1:] = self._affordable(pairs[1:], once, budget - elapsed)
            found = self._each(partial(self._measure, setting), pairs[first:])
            for pair, measured in zip(pairs[first:], found, strict=True):
                self._enter(pair, measured, tables)
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

    def _each(self, work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
        """`work` on every item, in threads; results in the order of the items."""
        if self.threads == 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(work, items))

    def _measure(
        self, setting: HeadConfig, pair: tuple[int, int]
    ) -> tuple[float, dict[int, Floats]] | None:
        """The loss of a fit without these folds, and a table for each of them."""
        members = self.problem.without(pair)
        if not len(members):
            return None
        fits = fit_head(
            self.problem,
            setting,
            members=members,
            checkpoints=self.checkpoints,
            seed=self.config.seed,
        )
        return fits[max(fits)].loss, {fold: self._table(fits, fold) for fold in pair}

    def _enter(
        self,
        pair: tuple[int, int],
        measured: tuple[float, dict[int, Floats]] | None,
        tables: dict[tuple[int, int], dict[int, list[Floats]]],
    ) -> None:
        if measured is None:
            return
        self._tell(measured[0])
        found = tables.setdefault(pair, {})
        for fold, table in measured[1].items():
            found.setdefault(fold, []).append(table)

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
        return fit_head(
            self.problem,
            choice.config,
            members=members,
            checkpoints=(choice.step,),
            seed=self.config.seed,
        )[choice.step]

    def _tell(self, loss: float) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, len(self.grid) * 10 + 6, loss)
