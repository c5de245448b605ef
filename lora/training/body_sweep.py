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
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import numpy.typing as npt

from lora.adapter import HEAD, Adapter
from lora.config import LoRAConfig
from lora.engine import ArrowEngine
from lora.head import bend
from lora.training.body_fit import BodyConfig, BodyFit, Objective
from lora.training.body_learner import Learner, pack, unpack
from lora.training.body_plan import SMALL, Plan, plan
from lora.training.body_trunk import Replica, Trunk, one_thread_each
from lora.training.checkpoint import Checkpoints
from lora.training.dataset import TrainingSet
from lora.training.errors import ConfigError, NothingToLearn, TrainingError
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
from lora.training.memory import ACTIVATIONS
from lora.training.schedule import padded

__all__ = ["BodyChoice", "BodySweep", "Progress", "TrainedBody", "train_body"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int, float], None]
"""Called with step, steps and loss."""

Shares = tuple[float, float]
"""Of the body and of the head."""

Job = tuple[int, ...]
"""The folds that a fit leaves out."""

_WHOLE: Job = ()


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
        self.initial, self.checkpoints, self.progress = initial, checkpoints, progress
        self.clock = checkpoints.elapsed
        self.sweep, self.config, self.arena, self.engine = sweep, sweep.config, arena, engine
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
        self.members = np.searchsorted(used, self.problem.rows)  # the trunk's row of each query
        self.judged = np.searchsorted(used, arena.rows)
        self.rows = {fold: np.flatnonzero(arena.folds == fold) for fold in self.folds}
        self.trunk = Trunk(
            engine,
            [data.queries[row] for row in used],
            self.config.adapted,
            layers=self.config.depth,
            threads=sweep.threads if engine.device.type == "cpu" else 1,
            max_bytes=sweep.max_activations,
        )
        self._check(data, used)
        self.objective = Objective(self.problem, self.config.temperature)
        self.lock = threading.Lock()
        self.done = self.steps = 0

    def run(self) -> TrainedBody:
        made = self._once("plan", self._plan)
        self.config = replace(self.config, epochs=made.epochs)
        self._announce([*made.inner, *((fold,) for fold in made.judged), _WHOLE])
        tables = dict(zip(made.inner, self.trunk.each(self._measured, made.inner), strict=True))
        planned = made
        made = self._once("shortened", lambda: self._shortened(planned))
        self._announce([(fold,) for fold in planned.judged if fold not in made.judged], -1)
        jobs: list[Job] = [_WHOLE, *((fold,) for fold in made.judged)]
        choices = {job: self._choose(tables, job) for job in jobs}
        # What needs no body is a matter of a moment.
        self._announce([job for job in jobs if not choices[job].body], -1)
        fits = self.trunk.each(lambda replica, job: self._done(replica, job, choices[job]), jobs)
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
            with self._learner(replica, np.arange(len(self.members)), None, {}) as learner:
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
        held = max(made.judged, key=lambda fold: len(self.rows[fold]))
        return replace(made, judged=(held,))

    def _announce(self, jobs: Iterable[Job], sign: int = 1) -> None:
        for job in jobs:
            self.steps += sign * self._length(job)

    def _length(self, job: Job) -> int:
        """Steps of a fit."""
        return self.config.epochs * -(-len(self.problem.without(job)) // self.config.batch)

    def _tell(self, loss: float, steps: int = 1) -> None:
        with self.lock:
            self.done += steps
            if self.progress is not None:
                self.progress(self.done, max(self.steps, self.done), loss)

    def _learner(
        self, replica: Replica, members: Ints, head: Adapter | None, body: Mapping[str, Adapter]
    ) -> Learner:
        ranks = {name: self.config.adapters((name,), 0).rank_of(name) for name in body}
        return Learner(
            replica,
            self.trunk,
            self.objective,
            self.config,
            members=members,
            rows=self.members,
            head=head,
            initial={name: padded(body[name], rank) for name, rank in ranks.items()},
            seed=self.sweep.seed,
        )

    def _head(self, problem: HeadProblem, members: Ints) -> Fit:
        steps = self.sweep.head_steps
        stops, seed = (steps,), self.sweep.seed
        return fit_head(problem, self.sweep.head, members=members, checkpoints=stops, seed=seed)[
            steps
        ]

    def _fit(self, replica: Replica, without: Job) -> tuple[Fit, BodyFit]:
        """The head alone, and body and head, on the queries outside these folds."""
        members = self.problem.without(without)
        if not len(members):
            raise NothingToLearn("no query is left to train on")
        problem, body = self.problem, self.initial.get(without, {})
        if body:
            with _applied(replica, body):
                problem = problem.upon(members, replica.vectors(self.members[members]))
        head = self._head(problem, members)
        share = self.config.head_start
        start = head_adapter(head, share) if share > 0 else None
        name = _name("fit", without)
        with self._learner(replica, members, start, body) as learner:
            fitted = learner.run(
                name, self.checkpoints, self._tell, lambda steps: self._tell(0.0, steps)
            )
        return head, fitted

    def _measured(self, replica: Replica, pair: tuple[int, int]) -> dict[int, dict[Shares, Floats]]:
        """`_measure`, unless that was done before an interruption."""
        name = _name("inner", pair)
        kept = self.checkpoints.get(name)
        if kept is not None:
            self._tell(0.0, self._length(pair))
            return {
                fold: {
                    (float(body), float(head)): kept.arrays[f"{fold}/{number}"]
                    for number, (body, head) in enumerate(kept.state["shares"])
                }
                for fold in pair
            }
        found = self._measure(replica, pair)
        shares = list(found[pair[0]])
        arrays = {
            f"{fold}/{number}": found[fold][share]
            for fold in pair
            for number, share in enumerate(shares)
        }
        self.checkpoints.put(name, arrays, {"shares": shares})
        self.checkpoints.drop(_name("fit", pair))
        return found

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

    def _done(
        self, replica: Replica, job: Job, choice: BodyChoice
    ) -> tuple[Mapping[str, Adapter], Floats, float]:
        """`_finish`, unless that was done before an interruption."""
        name = _name("outer", job)
        kept = self.checkpoints.get(name)
        if kept is not None:
            if choice.body:
                self._tell(0.0, self._length(job))
            modules = unpack(kept.arrays, kept.state["modules"])
            return modules, kept.arrays["vectors"], float(kept.state["loss"])
        modules, vectors, loss = self._finish(replica, job, choice)
        self.checkpoints.put(
            name, pack(modules) | {"vectors": vectors}, {"modules": list(modules), "loss": loss}
        )
        self.checkpoints.drop(_name("fit", job))
        return modules, vectors, loss

    def _finish(
        self, replica: Replica, job: Job, choice: BodyChoice
    ) -> tuple[dict[str, Adapter], Floats, float]:
        """Modules without the folds `job`, vectors (k, dim) of those folds' queries, loss."""
        rows = np.concatenate([self.rows[fold] for fold in job]) if job else np.zeros(0, np.int64)
        if not choice.body:
            if not choice.head:
                return {}, self.base[rows], 0.0
            head = self._head(self.problem, self.problem.without(job))
            adapter = head_adapter(head, choice.head)
            return {HEAD: adapter}, bend(self.base[rows], [adapter]), head.loss
        _, fitted = self._fit(replica, job)
        # A body that was begun from has its share already: it is not made smaller at each version.
        modules = fitted.scaled(1.0 if self.initial.get(job) else choice.body, choice.head)
        body = {name: adapter for name, adapter in modules.items() if name != HEAD}
        with _applied(replica, body):
            vectors = replica.vectors(self.judged[rows]) if len(rows) else self.base[rows]
        turned = bend(vectors, [modules[HEAD]] if HEAD in modules else [])
        return modules, turned, fitted.loss


def _name(what: str, job: Job) -> str:
    return "-".join([what, *(str(fold) for fold in job)])


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
