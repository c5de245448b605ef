"""Trains a body with its head, its scale chosen on inner folds, and fold models for the gate.

Every fit begins at a share of the head that its own queries give (`head.fit_head`), so no fold
model has seen anything of its fold. Settings are chosen as for heads (`sweep`): a fit that left out
the folds {i, j} shows what a candidate is worth to the outer fold i (on j) and to j (on i). The
candidates are shares of the body and of the head, the head alone, and no change.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lora.adapter import HEAD, Adapter
from lora.config import LoRAConfig
from lora.engine import ArrowEngine
from lora.head import bend
from lora.training.body_fit import BodyConfig, BodyFit, Objective, Optimizer, bend_tensor, fit
from lora.training.body_plan import SMALL, Plan, plan
from lora.training.body_trunk import Replica, Trunk, one_thread_each
from lora.training.dataset import TrainingSet
from lora.training.errors import ConfigError, NothingToLearn, TrainingError
from lora.training.gate import CUTOFF, Arena, unit
from lora.training.head import Fit, HeadConfig, HeadProblem, fit_head, head_adapter

__all__ = ["BodyChoice", "BodySweep", "Progress", "TrainedBody", "train_body"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int, float], None]
"""Called with step, steps and loss."""

Shares = tuple[float, float]
"""Of the body and of the head."""

_WHOLE: tuple[int, ...] = ()


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
    alone: tuple[float, ...] = (0.55, 0.8, 1.0)
    """Shares of the head fitted without a body."""
    time_budget_s: float | None = None
    """Seconds for everything; None for as long as it takes."""
    threads: int = 2
    """Trainings at once, a thread each."""
    max_passages: int = 1536
    """Passages that a softmax runs over where there are many."""
    max_rank: int = 128
    """Largest rank of a head."""
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


def train_body(
    data: TrainingSet,
    arena: Arena,
    engine: ArrowEngine,
    sweep: BodySweep | None = None,
    *,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainedBody:
    """Train a body with its head on everything, and fold models for the gate.

    `arena` holds the real queries that are judged. The same seed gives the same bits on the same
    machine where no time budget cuts the plan. The engine must not be used until this returns.

    Raises:
        NothingToLearn: fewer than two folds to learn from.
        TrainingError: the model is not the one that the dataset's vectors come from.
    """
    with one_thread_each():
        return _Training(data, arena, engine, sweep or BodySweep(), progress, clock).run()


class _Training:
    def __init__(
        self,
        data: TrainingSet,
        arena: Arena,
        engine: ArrowEngine,
        sweep: BodySweep,
        progress: Progress | None,
        clock: Callable[[], float],
    ) -> None:
        self.started, self.clock, self.progress = clock(), clock, progress
        self.sweep, self.config, self.arena, self.engine = sweep, sweep.config, arena, engine
        self.problem = HeadProblem(
            data, max_passages=sweep.max_passages, max_rank=sweep.max_rank, seed=sweep.seed
        )
        self.folds = sorted({int(fold) for fold in arena.folds})
        if len(self.folds) < 2 or len(set(self.problem.folds.tolist())) < 2:
            raise NothingToLearn("real feedback lies in fewer than two folds: too little to judge")
        self.base: Floats = np.array(data.query_vectors[arena.rows], np.float32)
        used = np.union1d(self.problem.rows, arena.rows)
        self.members = np.searchsorted(used, self.problem.rows)  # the trunk's row of each query
        self.judged = np.searchsorted(used, arena.rows)
        self.rows = {fold: np.flatnonzero(arena.folds == fold) for fold in self.folds}
        self.trunk = Trunk(
            engine,
            [data.queries[row] for row in used],
            self.config.adapted,
            layers=self.config.depth,
            threads=sweep.threads if engine.device.type == "cpu" else 1,
        )
        self._check(data, used)
        self.objective = Objective(self.problem, self.config.temperature)
        self.lock = threading.Lock()
        self.done = self.steps = 0

    def run(self) -> TrainedBody:
        made = self._plan()
        self.config = replace(self.config, epochs=made.epochs)
        self._announce([*made.inner, *((fold,) for fold in made.judged), _WHOLE])
        begun = self.clock()
        tables = dict(zip(made.inner, self.trunk.each(self._measure, made.inner), strict=True))
        made = self._shortened(made, self.clock() - begun)
        jobs: list[tuple[int, ...]] = [_WHOLE, *((fold,) for fold in made.judged)]
        choices = {job: self._choose(tables, job) for job in jobs}
        # What needs no body is a matter of a moment.
        self._announce([job for job in jobs if not choices[job].body], -1)
        fits = self.trunk.each(lambda replica, job: self._finish(replica, job, choices[job]), jobs)
        vectors, judged = self.base.copy(), np.zeros(len(self.base), bool)
        folds: dict[int, Mapping[str, Adapter]] = {}
        for (fold,), (kept, found, _) in zip(jobs[1:], fits[1:], strict=True):
            vectors[self.rows[fold]], judged[self.rows[fold]] = found, True
            folds[fold] = kept
        modules, _, loss = fits[0]
        if self.progress is not None:
            self.progress(self.done, self.done, loss)
        return TrainedBody(
            modules=modules,
            folds=folds,
            vectors=vectors,
            judged=judged,
            choice=choices[_WHOLE],
            plan=made,
            loss=loss,
            seconds=self.clock() - self.started,
        )

    def _check(self, data: TrainingSet, used: Ints) -> None:
        some = np.arange(0, len(used), max(1, len(used) // 8))[:8]
        (found,) = self.trunk.each(lambda replica, rows: replica.vectors(rows), [some])
        cosines = (unit(found) * unit(data.query_vectors[used[some]])).sum(axis=1)
        if cosines.min() < 0.999:
            raise TrainingError(
                "the dataset's vectors do not come from this model: the cosine to its own is "
                f"{cosines.min():.3f}"
            )

    def _plan(self) -> Plan:
        budget = self.sweep.time_budget_s
        sizes = {fold: int((self.problem.folds == fold).sum()) for fold in self.folds}
        per_row = 0.0
        if budget is not None:
            per_row = self._pilot()
            budget -= self.clock() - self.started
        return plan(
            sizes,
            len(np.unique(self.arena.groups)),
            epochs=self.config.epochs,
            workers=self.trunk.threads,
            per_row=per_row,
            budget=budget,
            evaluations=len(self.sweep.bodies),
        )

    def _pilot(self) -> float:
        """Seconds that one query takes in a step while all threads are at work."""
        size = self.config.batch
        steps = max(1, min(4, len(self.members) // size))

        def run(replica: Replica, number: int) -> float:
            every = np.arange(len(self.members))
            started = 0.0
            with _Learner(self, replica, every, None, steps) as learner:
                for epoch in range(2):  # the first one warms up
                    started = self.clock()
                    learner.epoch(number * 2 + epoch, limit=steps)
            return (self.clock() - started) / (steps * min(size, len(self.members)))

        return float(np.mean(self.trunk.each(run, list(range(self.trunk.threads)))))

    def _shortened(self, made: Plan, spent: float) -> Plan:
        """The plan with one judged fold where the machine has become too slow for all of them."""
        budget = self.sweep.time_budget_s
        if budget is None or len(made.judged) < 2 or not made.inner_seconds:
            return made
        left = budget - (self.clock() - self.started)
        slower = max(1.0, spent / made.inner_seconds)
        if made.outer_seconds * slower <= left or len(np.unique(self.arena.groups)) < SMALL:
            return made
        held = max(made.judged, key=lambda fold: len(self.rows[fold]))
        self._announce([(fold,) for fold in made.judged if fold != held], -1)
        return replace(made, judged=(held,))

    def _announce(self, jobs: Iterable[tuple[int, ...]], sign: int = 1) -> None:
        for job in jobs:
            count = len(self.problem.without(job))
            self.steps += sign * self.config.epochs * -(-count // self.config.batch)

    def _tell(self, loss: float) -> None:
        with self.lock:
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, max(self.steps, self.done), loss)

    def _fit(self, replica: Replica, without: tuple[int, ...]) -> tuple[Fit, BodyFit]:
        """The head alone, and body and head, on the queries outside these folds."""
        members = self.problem.without(without)
        if not len(members):
            raise NothingToLearn("no query is left to train on")
        steps = self.sweep.head_steps
        head = fit_head(
            self.problem,
            self.sweep.head,
            members=members,
            checkpoints=(steps,),
            seed=self.sweep.seed,
        )[steps]
        started = self.clock()
        loss = 0.0
        with _Learner(self, replica, members, head, self.config.epochs) as learner:
            for epoch in range(self.config.epochs):
                loss = learner.epoch(epoch, on_step=self._tell)
            body, trained = learner.adapters()
        return head, BodyFit(body, trained, loss, self.clock() - started)

    def _measure(self, replica: Replica, pair: tuple[int, int]) -> dict[int, dict[Shares, Floats]]:
        """Per fold of the pair: reciprocal ranks of its queries by shares of body and head."""
        head, fitted = self._fit(replica, pair)
        found: dict[int, dict[Shares, Floats]] = {fold: {} for fold in pair}
        for fold, sums in found.items():
            rows = self.rows[fold]
            base = self.base[rows]
            sums[0.0, 0.0] = self._score(rows, base)
            for share in self.sweep.alone:
                sums[0.0, share] = self._score(rows, bend(base, [head_adapter(head, share)]))
        for body in self.sweep.bodies:
            with _applied(replica, fitted.scaled(body, 0.0)):
                for fold, sums in found.items():
                    rows = self.rows[fold]
                    vectors = replica.vectors(self.judged[rows])
                    for share in self.sweep.heads:
                        made = fitted.scaled(0.0, share).get(HEAD)
                        turned = bend(vectors, [made] if made else [])
                        sums[body, share] = self._score(rows, turned)
        return found

    def _score(self, rows: Ints, vectors: Floats) -> Floats:
        """Reciprocal ranks, cut off as at the gate, of these queries of the arena."""
        scores = unit(vectors) @ self.arena.passages.T
        ranks = self.arena.rank_scores(scores, *self.arena.masks(rows))
        return np.where(ranks <= CUTOFF, 1.0 / ranks, 0.0).astype(np.float32)

    def _choose(
        self,
        tables: Mapping[tuple[int, int], Mapping[int, Mapping[Shares, Floats]]],
        outer: tuple[int, ...],
    ) -> BodyChoice:
        """The best shares by the inner folds; nothing that looked at the outer fold counts."""
        parts: dict[Shares, list[Floats]] = {}
        for pair, found in tables.items():
            if not set(outer) <= set(pair):
                continue
            for fold, gains in found.items():
                if fold not in outer:
                    for shares, values in gains.items():
                        parts.setdefault(shares, []).append(values)
        table = {shares: np.concatenate(values) for shares, values in parts.items()}
        # Of equals the first: no change, then the head alone, then the smallest change.
        best = max(table, key=lambda shares: float(table[shares].mean()))
        whole = table.get((1.0, 1.0))
        if whole is not None and whole.mean() > table[0.0, 0.0].mean():
            # A share that is better by less than one standard error is likely so by chance.
            ahead = table[best] - whole
            if ahead.mean() <= ahead.std() / np.sqrt(len(ahead)):
                best = (1.0, 1.0)
        return BodyChoice(*best, float(table[best].mean()))

    def _finish(
        self, replica: Replica, job: tuple[int, ...], choice: BodyChoice
    ) -> tuple[Mapping[str, Adapter], Floats, float]:
        """Modules without the folds `job`, vectors (k, dim) of those folds' queries, loss."""
        rows = np.concatenate([self.rows[fold] for fold in job]) if job else np.zeros(0, np.int64)
        if not choice.body:
            if not choice.head:
                return {}, self.base[rows], 0.0
            members, steps = self.problem.without(job), self.sweep.head_steps
            head = fit_head(
                self.problem,
                self.sweep.head,
                members=members,
                checkpoints=(steps,),
                seed=self.sweep.seed,
            )[steps]
            adapter = head_adapter(head, choice.head)
            return {HEAD: adapter}, bend(self.base[rows], [adapter]), head.loss
        _, fitted = self._fit(replica, job)
        modules = fitted.scaled(choice.body, choice.head)
        body = {name: adapter for name, adapter in modules.items() if name != HEAD}
        with _applied(replica, body):
            vectors = replica.vectors(self.judged[rows]) if len(rows) else self.base[rows]
        turned = bend(vectors, [modules[HEAD]] if HEAD in modules else [])
        return modules, turned, fitted.loss


class _Learner:
    """A replica with a body and a head in training."""

    def __init__(
        self, training: _Training, replica: Replica, members: Ints, head: Fit | None, epochs: int
    ) -> None:
        config = training.config
        self._training, self._replica, self._members = training, replica, members
        self._lengths = training.trunk.lengths[training.members[members]]
        self._config = config
        body = replica.attach(config.adapters(training.trunk.targets, training.sweep.seed))
        self._head: dict[str, nn.Parameter] = {}
        if head is not None and config.head_start > 0:
            start = head_adapter(head, config.head_start)
            device = training.engine.device
            self._head = {
                f"{HEAD}.{name}": nn.Parameter(torch.from_numpy(factor.copy()).to(device))
                for name, factor in zip(("lora_a", "lora_b"), start.factors, strict=True)
            }
        steps = epochs * -(-len(members) // config.batch)
        self._optimizer = Optimizer(body, self._head, config, steps)

    def __enter__(self) -> _Learner:
        return self

    def __exit__(self, *_: object) -> None:
        self._replica.manager.detach()

    def epoch(
        self,
        number: int,
        *,
        limit: int | None = None,
        on_step: Callable[[float], None] | None = None,
    ) -> float:
        return fit(
            self._encode,
            self._optimizer,
            self._training.objective,
            self._members,
            self._lengths,
            self._config,
            seed=self._training.sweep.seed,
            epoch=number,
            limit=limit,
            on_step=on_step,
        )

    def adapters(self) -> tuple[dict[str, Adapter], Adapter | None]:
        body = self._replica.manager.trained()
        if not self._head:
            return body, None
        a, b = (p.detach().cpu().numpy().copy() for p in self._head.values())
        return body, Adapter(a, b, a.shape[1], float(a.shape[1]))

    def _encode(self, rows: Ints) -> Tensor:
        vectors = self._replica.forward(self._training.members[rows])
        if self._head:
            a, b = self._head.values()
            vectors = bend_tensor(vectors, a, b, 1.0)
        return vectors


@contextlib.contextmanager
def _applied(replica: Replica, body: Mapping[str, Adapter]) -> Iterator[None]:
    """Within the block every text goes through this body."""
    if not body:
        yield
        return
    replica.attach(LoRAConfig(target_modules=tuple(body)), body)
    try:
        yield
    finally:
        replica.manager.detach()
