"""Trains a body with its head, its scale chosen on inner folds, and fold models for the gate.

Every fit begins at a share of the head that its own queries give (`head.fit_head`), so no fold
model has seen anything of its fold. Settings are chosen as for heads (`sweep`): a fit that left out
the folds {i, j} shows what a candidate is worth to the outer fold i (on j) and to j (on i). The
candidates are shares of the body and of the head, the head alone, and no change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt

from lora.adapter import Adapter
from lora.engine import ArrowEngine
from lora.training.body_fits import Fits, Job, Shares
from lora.training.body_plan import SMALL, Plan, plan
from lora.training.body_settings import BodyChoice, BodySweep, TrainedBody
from lora.training.body_trunk import Replica, Trunk, one_thread_each
from lora.training.checkpoint import Checkpoints
from lora.training.dataset import TrainingSet
from lora.training.errors import NothingToLearn, TrainingError
from lora.training.gate import Arena, unit
from lora.training.head import HeadProblem
from lora.training.progress import Progress, Steps

__all__ = ["train_body"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_WHOLE: Job = ()


def train_body(
    data: TrainingSet,
    arena: Arena,
    engine: ArrowEngine,
    sweep: BodySweep | None = None,
    *,
    initial: Mapping[Job, Mapping[str, Adapter]] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainedBody:
    """Train a body with its head on everything, and fold models for the gate.

    `arena` holds the real queries that are judged. `initial` are bodies to start from, by the folds
    that the fit leaves out and that they have never seen, `()` the one for all: a fit without one
    starts afresh, as the inner fits always do. The engine must not be used until this returns.

    The same seed gives the same bits on the same machine wherever the plan is the same; a time
    budget makes the plan depend on the speed measured, so the plan is part of what is returned.
    Plans and finished work are in `checkpoints` from the moment that they are made: a training that
    was killed goes on from there to the same bits, and the time spent before counts.

    Raises:
        NothingToLearn: fewer than two folds to learn from.
        TrainingError: the model is not the one that the dataset's vectors come from.
    """
    with one_thread_each():
        kept = checkpoints or Checkpoints(clock=clock)
        return _Training(
            data, arena, engine, sweep or BodySweep(), initial or {}, kept, progress
        ).run()


class _Training:
    def __init__(
        self,
        data: TrainingSet,
        arena: Arena,
        engine: ArrowEngine,
        sweep: BodySweep,
        initial: Mapping[Job, Mapping[str, Adapter]],
        checkpoints: Checkpoints,
        progress: Progress | None,
    ) -> None:
        self.checkpoints, self.clock = checkpoints, checkpoints.elapsed
        self.sweep, self.config, self.arena = sweep, sweep.config, arena
        self.problem = HeadProblem(
            data,
            max_passages=sweep.max_passages,
            max_rank=sweep.max_rank,
            max_queries=sweep.max_queries,
            passage_cap=sweep.passage_cap,
            soft_temperature=sweep.soft_temperature,
            seed=sweep.seed,
        )
        self.folds = sorted({int(fold) for fold in arena.folds})
        if len(self.folds) < 2 or len(set(self.problem.folds.tolist())) < 2:
            raise NothingToLearn("real feedback lies in fewer than two folds: too little to judge")
        self.base: Floats = np.array(data.query_vectors[arena.rows], np.float32)
        used = np.union1d(self.problem.rows, arena.rows)
        self.trunk = Trunk(
            engine,
            [data.queries[row] for row in used],
            self.config.adapted,
            layers=self.config.depth,
            threads=sweep.threads if engine.device.type == "cpu" else 1,
            max_bytes=sweep.max_activations,
        )
        self._check(data, used)
        self.members = np.searchsorted(used, self.problem.rows)  # the trunk's row of each query
        self.fits = Fits(
            sweep,
            self.problem,
            arena,
            self.trunk,
            base=self.base,
            members=self.members,
            judged=np.searchsorted(used, arena.rows),
            initial=initial,
            checkpoints=checkpoints,
            steps=Steps(progress),
        )

    def run(self) -> TrainedBody:
        made = self._once("plan", self._plan)
        self.fits.config = replace(self.config, epochs=made.epochs)
        self._announce([*made.inner, *((fold,) for fold in made.judged), _WHOLE])
        tables = dict(zip(made.inner, self.trunk.each(self.fits.measured, made.inner), strict=True))
        planned = made
        made = self._once("shortened", lambda: self._shortened(planned))
        self._announce([(fold,) for fold in planned.judged if fold not in made.judged], -1)
        jobs: list[Job] = [_WHOLE, *((fold,) for fold in made.judged)]
        choices = {job: self._choose(tables, job) for job in jobs}
        # What needs no body is a matter of a moment.
        self._announce([job for job in jobs if not choices[job].body], -1)
        fits = self.trunk.each(
            lambda replica, job: self.fits.done(replica, job, choices[job]), jobs
        )
        vectors, judged = self.base.copy(), np.zeros(len(self.base), bool)
        folds: dict[int, Mapping[str, Adapter]] = {}
        for (fold,), (kept, found, _) in zip(jobs[1:], fits[1:], strict=True):
            vectors[self.fits.rows[fold]], judged[self.fits.rows[fold]] = found, True
            folds[fold] = kept
        modules, _, loss = fits[0]
        self.fits.steps.finish(loss)
        return TrainedBody(
            modules=modules,
            folds=folds,
            vectors=vectors,
            judged=judged,
            choice=choices[_WHOLE],
            plan=made,
            loss=loss,
            seconds=self.clock(),
        )

    def _once(self, name: str, make: Callable[[], Plan]) -> Plan:
        """A plan that rests on measured speed: made once, and kept through interruptions."""
        found = self.checkpoints.get(name)
        if found is not None:
            told = dict(found.state)
            pairs = tuple((int(a), int(b)) for a, b in told.pop("inner"))
            return Plan(inner=pairs, judged=tuple(told.pop("judged")), **told)
        made = make()
        self.checkpoints.put(name, {}, asdict(made))
        return made

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
            budget -= self.clock()
        made = plan(
            sizes,
            len(np.unique(self.arena.groups)),
            epochs=self.config.epochs,
            workers=self.trunk.threads,
            per_row=per_row,
            budget=budget,
            evaluations=len(self.sweep.bodies),
        )
        return replace(made, begun=self.clock())

    def _pilot(self) -> float:
        """Seconds that one query takes in a step while all threads are at work."""
        size = self.config.batch
        steps = max(1, min(4, len(self.members) // size))

        def run(replica: Replica, number: int) -> float:
            started = 0.0
            with self.fits.learner(replica, np.arange(len(self.members)), None, {}) as learner:
                for epoch in range(2):  # the first one warms up
                    started = self.clock()
                    learner.epoch(number * 2 + epoch, limit=steps)
            return (self.clock() - started) / (steps * min(size, len(self.members)))

        return float(np.mean(self.trunk.each(run, list(range(self.trunk.threads)))))

    def _shortened(self, made: Plan) -> Plan:
        """The plan with one judged fold where the machine has become too slow for all of them."""
        budget = self.sweep.time_budget_s
        if budget is None or len(made.judged) < 2 or not made.inner_seconds:
            return made
        left = budget - self.clock()
        slower = max(1.0, (self.clock() - made.begun) / made.inner_seconds)
        if made.outer_seconds * slower <= left or len(np.unique(self.arena.groups)) < SMALL:
            return made
        held = max(made.judged, key=lambda fold: len(self.fits.rows[fold]))
        return replace(made, judged=(held,))

    def _announce(self, jobs: Iterable[Job], sign: int = 1) -> None:
        for job in jobs:
            self.fits.steps.expect(sign * self.fits.length(job))

    def _choose(
        self,
        tables: Mapping[tuple[int, int], Mapping[int, Mapping[Shares, Floats]]],
        outer: Job,
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
