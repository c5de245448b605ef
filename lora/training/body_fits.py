"""The fits of a body's sweep: each leaves folds out, and is measured or judged on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from lora.adapter import HEAD, Adapter
from lora.config import LoRAConfig
from lora.head import bend
from lora.training.body_fit import BodyFit, Objective
from lora.training.body_learner import Learner, pack, unpack
from lora.training.body_settings import BodyChoice, BodySweep
from lora.training.body_trunk import Replica, Trunk
from lora.training.checkpoint import Checkpoints
from lora.training.errors import NothingToLearn
from lora.training.gate import CUTOFF, Arena, unit
from lora.training.head import Fit, HeadProblem, fit_head, head_adapter
from lora.training.progress import Steps
from lora.training.schedule import padded

__all__ = ["Fits", "Job", "Shares"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

Shares = tuple[float, float]
"""Of the body and of the head."""

Job = tuple[int, ...]
"""The folds that a fit leaves out."""


class Fits:
    """Everything that the fits of one sweep share; several threads may call it, a replica each."""

    def __init__(
        self,
        sweep: BodySweep,
        problem: HeadProblem,
        arena: Arena,
        trunk: Trunk,
        *,
        base: Floats,
        members: Ints,
        judged: Ints,
        initial: Mapping[Job, Mapping[str, Adapter]],
        checkpoints: Checkpoints,
        steps: Steps,
    ) -> None:
        """`base` (k, dim): base vectors of the arena's queries; `members` and `judged`: the trunk's
        row of each of the problem's queries, and of each of the arena's."""
        self._sweep, self._problem, self._arena, self._trunk = sweep, problem, arena, trunk
        self._base, self._members, self._judged = base, members, judged
        self._initial, self._checkpoints, self.steps = initial, checkpoints, steps
        self._objective = Objective(problem, sweep.config.temperature)
        self.config = sweep.config
        """How bodies are trained; the plan may change the number of epochs."""
        self.rows = {
            fold: np.flatnonzero(arena.folds == fold)
            for fold in sorted({int(fold) for fold in arena.folds})
        }
        """Of each fold the arena's queries in it."""

    def length(self, job: Job) -> int:
        """Steps of a fit."""
        return self.config.epochs * -(-len(self._problem.without(job)) // self.config.batch)

    def learner(
        self, replica: Replica, members: Ints, head: Adapter | None, body: Mapping[str, Adapter]
    ) -> Learner:
        """A replica in training on these of the problem's queries."""
        ranks = {name: self.config.adapters((name,), 0).rank_of(name) for name in body}
        return Learner(
            replica,
            self._trunk,
            self._objective,
            self.config,
            members=members,
            rows=self._members,
            head=head,
            initial={name: padded(body[name], rank) for name, rank in ranks.items()},
            seed=self._sweep.seed,
        )

    def _head(self, problem: HeadProblem, members: Ints) -> Fit:
        steps = self._sweep.head_steps
        stops, seed = (steps,), self._sweep.seed
        return fit_head(problem, self._sweep.head, members=members, checkpoints=stops, seed=seed)[
            steps
        ]

    def fit(self, replica: Replica, without: Job) -> tuple[Fit, BodyFit]:
        """The head alone, and body and head, on the queries outside these folds."""
        members = self._problem.without(without)
        if not len(members):
            raise NothingToLearn("no query is left to train on")
        problem, body = self._problem, self._initial.get(without, {})
        if body:
            with _applied(replica, body):
                problem = problem.upon(members, replica.vectors(self._members[members]))
        head = self._head(problem, members)
        share = self.config.head_start
        start = head_adapter(head, share) if share > 0 else None
        name = _name("fit", without)
        with self.learner(replica, members, start, body) as learner:
            fitted = learner.run(
                name, self._checkpoints, self.steps.tell, lambda steps: self.steps.tell(0.0, steps)
            )
        return head, fitted

    def measured(self, replica: Replica, pair: tuple[int, int]) -> dict[int, dict[Shares, Floats]]:
        """`_measure`, unless that was done before an interruption."""
        name = _name("inner", pair)
        kept = self._checkpoints.get(name)
        if kept is not None:
            self.steps.tell(0.0, self.length(pair))
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
        self._checkpoints.put(name, arrays, {"shares": shares})
        self._checkpoints.drop(_name("fit", pair))
        return found

    def _measure(self, replica: Replica, pair: tuple[int, int]) -> dict[int, dict[Shares, Floats]]:
        """Per fold of the pair: reciprocal ranks of its queries by shares of body and head."""
        head, fitted = self.fit(replica, pair)
        found: dict[int, dict[Shares, Floats]] = {fold: {} for fold in pair}
        for fold, sums in found.items():
            rows = self.rows[fold]
            base = self._base[rows]
            sums[0.0, 0.0] = self._score(rows, base)
            for share in self._sweep.alone:
                sums[0.0, share] = self._score(rows, bend(base, [head_adapter(head, share)]))
        for body in self._sweep.bodies:
            with _applied(replica, fitted.scaled(body, 0.0)):
                for fold, sums in found.items():
                    rows = self.rows[fold]
                    vectors = replica.vectors(self._judged[rows])
                    for share in self._sweep.heads:
                        made = fitted.scaled(0.0, share).get(HEAD)
                        turned = bend(vectors, [made] if made else [])
                        sums[body, share] = self._score(rows, turned)
        return found

    def _score(self, rows: Ints, vectors: Floats) -> Floats:
        """Reciprocal ranks, cut off as at the gate, of these queries of the arena."""
        scores = unit(vectors) @ self._arena.passages.T
        ranks = self._arena.rank_scores(scores, *self._arena.masks(rows))
        return np.where(ranks <= CUTOFF, 1.0 / ranks, 0.0).astype(np.float32)

    def done(
        self, replica: Replica, job: Job, choice: BodyChoice
    ) -> tuple[Mapping[str, Adapter], Floats, float]:
        """`_finish`, unless that was done before an interruption."""
        name = _name("outer", job)
        kept = self._checkpoints.get(name)
        if kept is not None:
            if choice.body:
                self.steps.tell(0.0, self.length(job))
            modules = unpack(kept.arrays, kept.state["modules"])
            return modules, kept.arrays["vectors"], float(kept.state["loss"])
        modules, vectors, loss = self._finish(replica, job, choice)
        self._checkpoints.put(
            name, pack(modules) | {"vectors": vectors}, {"modules": list(modules), "loss": loss}
        )
        self._checkpoints.drop(_name("fit", job))
        return modules, vectors, loss

    def _finish(
        self, replica: Replica, job: Job, choice: BodyChoice
    ) -> tuple[dict[str, Adapter], Floats, float]:
        """Modules without the folds `job`, vectors (k, dim) of those folds' queries, loss."""
        rows = np.concatenate([self.rows[fold] for fold in job]) if job else np.zeros(0, np.int64)
        if not choice.body:
            if not choice.head:
                return {}, self._base[rows], 0.0
            head = self._head(self._problem, self._problem.without(job))
            adapter = head_adapter(head, choice.head)
            return {HEAD: adapter}, bend(self._base[rows], [adapter]), head.loss
        _, fitted = self.fit(replica, job)
        # A body that was begun from has its share already: it is not made smaller at each version.
        modules = fitted.scaled(1.0 if self._initial.get(job) else choice.body, choice.head)
        body = {name: adapter for name, adapter in modules.items() if name != HEAD}
        with _applied(replica, body):
            vectors = replica.vectors(self._judged[rows]) if len(rows) else self._base[rows]
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
