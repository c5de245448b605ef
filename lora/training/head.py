"""Trains heads in NumPy: softmax over frozen passages, through the normalisation, by AdamW.

    ê' = normalize(ê + ê A B),   B fixed: orthonormal rows that span the passages,   A learnt

What a query gains outside the span of the passages cannot change their order but through the norm,
so B is not learnt: a head of rank min(passages, dim) then is as free as a full matrix, and a step
costs a fraction of it. With r = rank, h = X A, c = X Bᵀ, S = X Pᵀ and Q = P Bᵀ, everything happens
in r dimensions: scores = (S + h Qᵀ) / ‖ê + h B‖, and ‖ê + h B‖² = 1 + 2 c·h + h·h.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lora.card import Adapter
from lora.training.dataset import TrainingSet
from lora.training.errors import ConfigError, NothingToLearn
from lora.training.gate import unit
from lora.training.targets import relevance, target_distributions

__all__ = ["Fit", "HeadConfig", "HeadProblem", "fit_head", "head_adapter"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MAX_QUERIES = 20_000
"""Queries beyond this are left out of training (a seeded sample is kept): memory stays bounded."""

MAX_PASSAGES = 6_000
"""Passages in a softmax, however many are relevant to some query."""

_AVERAGE = 0.9
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class HeadConfig:
    """How one head is fitted; a contradiction raises `ConfigError`."""

    temperature: float = 0.05
    """τ of the softmax over cosines, above 0."""
    learning_rate: float = 6e-3
    """AdamW's step, above 0."""
    weight_decay: float = 3.0
    """AdamW's decoupled decay towards "no change", 0 or more."""
    dropout: float = 0.3
    """Share of a query's coordinates hidden at each step, 0 to below 1."""
    steps: int = 45
    """Steps of the longest trajectory; early stopping picks among its checkpoints."""
    batch: int = 1024
    """Rows a step looks at; all of them where there are fewer."""
    self_weight: float = 1.0
    """Weight of each passage as a query for itself, against 1 for a query; together they weigh at
    most as much as the queries. Keeps what was never asked about where it is."""
    taught_weight: float = 1.0
    """Weight of a query that no person gave, times its own; 0 or more."""
    rank: int = 0
    """Rank of the head, at most the problem's; 0 for the problem's."""

    def __post_init__(self) -> None:
        for name in ("temperature", "learning_rate", "steps", "batch"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} should be above 0, not {getattr(self, name)}")
        for name in ("weight_decay", "self_weight", "taught_weight", "rank"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} should not be negative, but is {getattr(self, name)}")
        if self.learning_rate * self.weight_decay >= 1:
            raise ConfigError("learning_rate times weight_decay should be below 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout should lie in 0 to below 1, not {self.dropout}")


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted head at one checkpoint: `ê + scale · ê A B`."""

    a: Floats
    """(dim, rank)"""
    b: Floats
    """(rank, dim), orthonormal rows."""
    step: int
    loss: float
    """Mean cross entropy of the last step, in nats."""

    def apply(self, vectors: Floats, scale: float = 1.0) -> Floats:
        """Unit vectors (k, dim) bent and normalised."""
        bent: Floats = unit(vectors + np.float32(scale) * (vectors @ self.a) @ self.b)
        return bent


class HeadProblem:
    """A dataset made ready for many fits: targets, masks and similarities, computed once."""

    def __init__(
        self,
        data: TrainingSet,
        *,
        max_passages: int = 1536,
        max_rank: int = 128,
        max_queries: int = MAX_QUERIES,
        passage_cap: int = MAX_PASSAGES,
        soft_temperature: float = 1.0,
        query_vectors: npt.ArrayLike | None = None,
        seed: int = 0,
    ) -> None:
        """Where passages are many the softmax runs over `max_passages`: labelled ones first, then
        a sample; over more where more are relevant, but never over more than `passage_cap`. Where
        queries are too many it is those that people gave and a sample of the others.
        `max_rank` bounds the rank, else passages and dimensions do; `soft_temperature` is that of
        `target_distributions`. `query_vectors` (n, dim) take the place of the base vectors, for a
        head upon a body.

        Raises `NothingToLearn` where no query has a relevant passage.
        """
        generator = np.random.default_rng(seed)
        given = data.query_vectors if query_vectors is None else query_vectors
        pairs = relevance(data)
        wanted = pairs.relevant()
        chosen = _passages(data, wanted.passage, max_passages, passage_cap, generator)
        named = np.zeros(len(data.queries), bool)
        named[wanted.query[np.isin(wanted.passage, chosen)]] = True
        rows = np.flatnonzero(named & (data.weights > 0))
        if not len(rows):
            raise NothingToLearn("no query of the dataset has a relevant passage")
        if len(rows) > max_queries:
            rows = _sample(rows, data.real[rows], max_queries, generator)
        self.rows: Ints = rows
        """(k,) dataset indexes of the queries trained on."""
        self.folds = data.folds[rows]
        """(k,) fold of each."""
        self.vectors: Floats = unit(np.asarray(given)[rows])
        """(k, dim) unit vectors."""
        self.passages: Floats = unit(data.passage_vectors[chosen])
        """(m, dim) unit vectors of the passages the softmax runs over."""
        self.basis: Floats = _span(self.passages, min(max_rank, len(chosen), data.dim))
        """(rank, dim) orthonormal rows."""
        self.scores: Floats = self.vectors @ self.passages.T
        targets = target_distributions(data, pairs, rows, chosen, soft_temperature)
        self.targets, self.hidden = targets.shares, targets.hidden
        self.weights: Floats = data.weights[rows] * targets.sureness
        """(k,) weights: what nobody is sure of counts for less."""
        self.taught = ~data.real[rows]
        """(k,) which of them no person gave."""

    @property
    def rank(self) -> int:
        """Rank of the heads fitted."""
        return int(self.basis.shape[0])

    def upon(self, members: Ints, vectors: Floats) -> HeadProblem:
        """The same problem with other vectors (j, dim) of the queries `members`."""
        other = copy.copy(self)
        other.vectors, other.scores = self.vectors.copy(), self.scores.copy()
        other.vectors[members] = unit(vectors)
        other.scores[members] = other.vectors[members] @ self.passages.T
        return other

    def without(self, folds: Iterable[int]) -> Ints:
        """Indexes, into `rows`, of the queries outside these folds."""
        return np.flatnonzero(~np.isin(self.folds, list(folds)))


def fit_head(
    problem: HeadProblem,
    config: HeadConfig,
    *,
    members: npt.ArrayLike | None = None,
    checkpoints: Sequence[int] = (),
    seed: int = 0,
) -> dict[int, Fit]:
    """Fit on the queries `members` (indexes into `problem.rows`; all by default).

    Returns a `Fit` per checkpoint (the last step by default), each the running average of the
    steps before it (Polyak; decay 0.9). The same seed gives the same bits on the same machine.
    """
    chosen = np.arange(len(problem.rows)) if members is None else np.asarray(members, np.int64)
    if not len(chosen):
        raise NothingToLearn("no query is left to train on")
    stops = sorted(set(checkpoints)) or [config.steps]
    generator = np.random.default_rng(seed)
    basis = problem.basis[: config.rank or None]  # the leading directions of the passages
    batch = _Batches(problem, basis, chosen, config, generator)
    a = np.zeros((problem.vectors.shape[1], len(basis)), np.float32)
    mean, square, average = np.zeros_like(a), np.zeros_like(a), np.zeros_like(a)
    fits: dict[int, Fit] = {}
    for step in range(1, stops[-1] + 1):
        loss, gradient = loss_and_gradient(a, *batch.next(), config.temperature)
        mean += (1 - _BETA1) * (gradient - mean)
        square += (1 - _BETA2) * (gradient * gradient - square)
        a *= 1 - config.learning_rate * config.weight_decay
        rate = config.learning_rate / (1 - _BETA1**step)
        a -= rate * mean / (np.sqrt(square / (1 - _BETA2**step)) + _EPSILON)
        average += (1 - _AVERAGE) * (a - average)
        if step in stops:
            smooth = (average / (1 - _AVERAGE**step)).astype(np.float32)
            fits[step] = Fit(smooth, basis, step, loss)
    return fits


def head_adapter(fit: Fit, scale: float, *, max_rank: int | None = None) -> Adapter:
    """The fit as a card's head: `scale · A B`, balanced by its singular values; alpha = rank.

    With `max_rank` the best approximation of that rank (truncated SVD).
    """
    # A B = (A R) Bq: an orthonormal B leaves the singular values to A alone, a small SVD.
    left, values, right = np.linalg.svd(fit.a * np.float32(scale), full_matrices=False)
    rank = len(values) if max_rank is None else min(max_rank, len(values))
    root = np.sqrt(values[:rank])
    a = np.ascontiguousarray(left[:, :rank] * root, dtype=np.float32)
    b = np.ascontiguousarray((root[:, None] * right[:rank]) @ fit.b, dtype=np.float32)
    return Adapter(a, b, rank, float(rank))


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one step: what `loss_and_gradient` needs besides A."""

    inputs: Floats
    """(k, dim) unit query vectors, with dropout."""
    along: Floats
    """(k, rank) the clean query vectors in the passages' basis."""
    scores: Floats
    """(k, m) base cosines."""
    targets: Floats
    """(k, m) rows sum to 1."""
    hidden: npt.NDArray[np.bool_]
    """(k, m) passages left out of the softmax."""
    weights: Floats
    """(k,) sum to 1, or all 0."""


def loss_and_gradient(
    a: Floats, batch: Batch, passages: Floats, temperature: float
) -> tuple[float, Floats]:
    """Weighted cross entropy in nats, and its gradient (dim, rank).

    `passages` (m, rank): the passages in their own basis. The dropout of the inputs reaches only
    what is added to the query, never the query itself.
    """
    added = batch.inputs @ a
    moved = batch.along + added
    norms = np.sqrt(1.0 + ((batch.along + moved) * added).sum(axis=1, keepdims=True))
    cosines = (batch.scores + added @ passages.T) / norms
    logits = cosines / np.float32(temperature)
    logits[batch.hidden] = -np.inf
    logits -= logits.max(axis=1, keepdims=True)
    chances = np.exp(logits)
    sums = chances.sum(axis=1, keepdims=True)
    chances /= sums
    with np.errstate(invalid="ignore"):
        logs = np.where(batch.targets > 0, batch.targets * (logits - np.log(sums)), 0.0)
    loss = -float((batch.weights[:, None] * logs).sum())
    pull = (chances - batch.targets) * (batch.weights[:, None] / np.float32(temperature))
    turn = (pull * cosines).sum(axis=1, keepdims=True)
    gradient: Floats = batch.inputs.T @ ((pull @ passages - turn * moved / norms) / norms)
    return loss, gradient


class _Batches:
    """The rows of each step: a sample of the queries, and passages as queries for themselves."""

    def __init__(
        self,
        problem: HeadProblem,
        basis: Floats,
        members: Ints,
        config: HeadConfig,
        generator: np.random.Generator,
    ) -> None:
        self._problem, self._basis, self._members = problem, basis, members
        self._config, self._generator = config, generator
        self._passages = problem.passages @ basis.T
        self._selves = self._own_rows()
        self._whole = self._make(members) if len(members) <= config.batch else None

    def next(self) -> tuple[Batch, Floats]:
        batch = self._whole
        if batch is None:
            drawn = self._generator.choice(self._members, self._config.batch, replace=False)
            batch = self._make(np.sort(drawn))
        keep = 1.0 - self._config.dropout
        if keep < 1.0:
            kept = self._generator.random(batch.inputs.shape, dtype=np.float32) < keep
            batch = replace(batch, inputs=batch.inputs * kept / np.float32(keep))
        return batch, self._passages

    def _own_rows(self) -> Ints:
        """Passages that stand as queries: all, or about as many as there are queries."""
        count = len(self._problem.passages)
        most = max(128, min(len(self._members), self._config.batch))
        if not self._config.self_weight:
            return np.zeros(0, np.int64)
        if count <= most:
            return np.arange(count)
        return np.sort(self._generator.choice(count, most, replace=False))

    def _make(self, members: Ints) -> Batch:
        problem, selves = self._problem, self._selves
        own = problem.passages[selves]
        inputs = np.concatenate([problem.vectors[members], own])
        targets = np.zeros((len(inputs), len(problem.passages)), np.float32)
        targets[: len(members)] = problem.targets[members]
        targets[len(members) + np.arange(len(selves)), selves] = 1.0
        hidden = np.zeros(targets.shape, bool)
        hidden[: len(members)] = problem.hidden[members]
        weights = problem.weights[members]
        if self._config.taught_weight != 1.0:
            factor = np.float32(self._config.taught_weight)
            weights = np.where(problem.taught[members], weights * factor, weights)
        total = float(weights.sum())
        share = min(self._config.self_weight, total / max(len(selves), 1))
        weights = np.concatenate([weights, np.full(len(selves), share, np.float32)])
        return Batch(
            inputs=inputs,
            along=inputs @ self._basis.T,
            scores=np.concatenate([problem.scores[members], own @ problem.passages.T]),
            targets=targets,
            hidden=hidden,
            # A batch may hold nothing but what counts for nothing.
            weights=(weights / max(float(weights.sum()), 1e-12)).astype(np.float32),
        )


def _passages(
    data: TrainingSet, relevant: Ints, most: int, cap: int, generator: np.random.Generator
) -> Ints:
    """Passages to train over: `relevant` ones first, then irrelevant by frequency, then any."""
    count = len(data.passages)
    wanted = len(np.unique(relevant))
    most = min(max(most, min(wanted + most // 3, MAX_PASSAGES)), cap)
    if count <= most:
        return np.arange(count)
    order = generator.random(count)
    np.add.at(order, data.label_passage, 1.0)
    order[relevant] += len(data.label_source) + 1.0
    return np.sort(np.argsort(-order, kind="stable")[:most])


def _sample(
    rows: Ints, real: npt.NDArray[np.bool_], most: int, generator: np.random.Generator
) -> Ints:
    """At most so many of the rows, the real ones before any other."""
    first, others = rows[real], rows[~real]
    if len(first) >= most:
        return np.sort(generator.choice(first, most, replace=False))
    drawn = generator.choice(others, most - len(first), replace=False)
    return np.sort(np.concatenate([first, drawn]))


def _span(passages: Floats, rank: int) -> Floats:
    """(rank, dim) leading right singular vectors of the passages."""
    gram = passages.T @ passages
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    order = np.argsort(-values, kind="stable")[:rank]
    return np.ascontiguousarray(vectors[:, order].T, dtype=np.float32)
