"""From a dataset to a judged candidate: trained, gated, given what it may route, and written up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lora.adapter import HEAD, Adapter
from lora.boundary import BOUNDARY
from lora.card import BaseModel, LoRACard
from lora.training.calibration import Routing, fit_routing
from lora.training.champion import (
    Champion,
    Encode,
    body_vectors,
    champion_vectors,
    identity_head,
    judged_fairly,
    pack_groups,
    unpack_groups,
)
from lora.training.dataset import FOLDS, TrainingSet
from lora.training.errors import ConfigError, NothingToLearn
from lora.training.gate import MIN_GROUPS, Arena, Verdict, judge, mrr, recall
from lora.training.head import HeadConfig
from lora.training.memory import bounds
from lora.training.progress import Progress
from lora.training.schedule import head_rank
from lora.training.stacking import (
    beside_metrics,
    neighbour_of,
    neighbours_of,
    stacking_metrics,
)
from lora.training.sweep import Choice, SweepConfig, train_head

__all__ = [
    "Candidate",
    "CandidateRequest",
    "Metric",
    "blank_card",
    "fold_groups",
    "head_candidate",
    "judge_candidate",
    "largest_head",
]

TRAINER = "consonance/1"

TRUSTED = 0.5
"""Weight from which a query that no person asked counts as the skill's own in routing."""

Floats = npt.NDArray[np.float32]
Metric = float | int | str | bool | None


@dataclass(frozen=True, eq=False, kw_only=True)
class CandidateRequest:
    """Everything that training and the gate are told."""

    data: TrainingSet
    skill: str
    version: int
    """Version that the candidate would bear."""
    base_model: BaseModel
    data_digest: str
    """`sha256:…` of the dataset."""
    champion: Champion | None = None
    """What is served now; None: the base model."""
    parents: tuple[str, ...] = ()
    description: str = ""
    description_vector: Floats | None = None
    """(dim,) base vector of the description, one more prototype; None: left out."""
    negatives: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(z, dim) base vectors of the background and of other domains' queries."""
    neighbours: tuple[LoRACard, ...] = ()
    """Newest installed cards of other skills."""
    anchors: TrainingSet | None = None
    """Trusted pairs on which a candidate must not lose."""
    attempts: int = 1
    """Candidates judged since the version before was published, this one included."""
    seed: int = 0
    time_budget_s: float = 15.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Overrides from the configuration."""
    encode: Encode | None = None
    """Applies cards with bodies; needed where the champion has one."""
    memory_budget: int | None = None
    """Bytes of resident memory that the process may take; None: no bound beyond the usual ones."""
    created: str | None = None
    """RFC 3339 time that the cards bear, so that the same request gives the same bytes; None: now.
    """


@dataclass(frozen=True, eq=False)
class Candidate:
    """What came of a request."""

    card: LoRACard | None
    """Trained on everything, with metrics, prototypes and threshold; None: no change was best."""
    folds: Mapping[int, LoRACard]
    """Per fold, the model fitted without it."""
    accepted: bool
    reason: str
    """One sentence."""
    metrics: Mapping[str, Metric]
    chosen: Mapping[str, Metric]
    """Settings that were chosen."""
    seconds: float


def head_candidate(
    request: CandidateRequest, progress: Progress | None = None, *, threads: int = 1
) -> Candidate:
    """Train a head and judge it: in seconds and without torch, from vectors alone.

    Where the champion has a body, the candidate is that body with a new head upon it: then the
    queries are encoded again, once, by `request.encode`. `threads` is how many fits run at once;
    the candidate does not depend on it.
    """
    started = time.monotonic()
    data = request.data
    arena = Arena(data)
    if not len(arena.rows):
        raise NothingToLearn("the dataset holds no real feedback with a relevant passage")
    config = replace(_sweep_config(request), threads=threads)
    champion, upon = request.champion, None
    if champion is not None and champion.card.body:
        if request.encode is None:
            raise ConfigError("the champion has a body, and no encoder was given")
        upon = body_vectors(data, champion, request.encode)
    trained = train_head(data, arena, config, query_vectors=upon, progress=progress)
    chosen = _chosen(trained.choice) | {
        "settings_tried": trained.tried,
        "pairs_tried": trained.pairs,
        "rank": trained.adapter.rank if trained.adapter else 0,
    }
    folds = {
        fold: replace(
            blank_card(request, _modules(request, adapter, fold)),
            extra=pack_groups(_kept_away(request, fold)),
        )
        for fold, adapter in trained.folds.items()
    }
    final = blank_card(request, _modules(request, trained.adapter, None))
    judged = judge_candidate(request, final, arena, trained.vectors)
    seconds = time.monotonic() - started
    accepted, reason = judged.accepted, judged.reason
    metrics = dict(judged.metrics)
    if accepted and not final.body:
        others = _neighbours(request)
        metrics |= stacking_metrics(data, judged.routing, trained.folds, others, seed=request.seed)
    card: LoRACard | None = replace(judged.card, metrics=metrics)
    if trained.adapter is None:
        accepted, card = False, None
        reason = "no setting of the sweep was better than no change on the inner folds"
    return Candidate(card, folds, accepted, reason, metrics, chosen, seconds)


@dataclass(frozen=True, eq=False)
class Judged:
    """A candidate's card after the gate."""

    card: LoRACard
    accepted: bool
    reason: str
    metrics: Mapping[str, Metric]
    verdict: Verdict
    routing: Routing


def judge_candidate(
    request: CandidateRequest, card: LoRACard, arena: Arena, vectors: Floats
) -> Judged:
    """Judge a trained card of either depth, and give it metrics, prototypes and threshold.

    `vectors` (k, dim): the arena's queries, each bent by a model that has not seen its fold. Both
    sides count as they are served: what a threshold would not route stays with the base vector.
    """
    data = request.data
    fair = judged_fairly(arena, request.champion)
    if not fair.all() and len(np.unique(arena.groups[fair])) >= MIN_GROUPS:
        arena, vectors = Arena(data, arena.rows[fair]), vectors[fair]
    base = data.query_vectors[arena.rows]
    routing, kept = _routing(request, arena)
    served = np.where(kept[:, None], vectors, base)
    before = arena.ranks(champion_vectors(data, arena, request.champion, request.encode))
    after = arena.ranks(served)
    verdict = judge(before, after, arena.groups, attempts=request.attempts, seed=request.seed)
    named = arena.ranks(vectors)
    card = replace(card, prototypes=routing.prototypes, threshold=routing.threshold)
    if routing.boundary is not None:
        card = replace(card, extra={**card.extra, BOUNDARY: routing.boundary.to_text()})
    metrics: dict[str, Metric] = {
        name: getattr(verdict, name)
        for name in ("before", "after", "gain", "low", "high", "groups", "attempts")
    }
    metrics |= {
        "recall_before": verdict.recall_before,
        "recall_after": verdict.recall_after,
        "named_after": mrr(named),
        "named_recall_after": recall(named),
        "negatives": len(request.negatives),
    }
    rates = ("routed", "false_routed", "false_by_cosine")
    metrics |= {name: rate for name in rates if (rate := getattr(routing, name)) is not None}
    metrics |= beside_metrics(routing, _neighbours(request))
    accepted, reason = verdict.accepted, verdict.reason
    if request.anchors is not None:
        old, new = _on_anchors(request, card)
        metrics |= {"anchors_before": old, "anchors_after": new}
        if accepted and new < old:
            accepted = False
            reason = f"loses on the anchor set: MRR@10 {old:.3f} → {new:.3f}"
    if accepted and routing.reason:
        reason = f"{reason}; named use only: {routing.reason}"
    card = replace(card, metrics=metrics)
    return Judged(card, accepted, reason, metrics, verdict, routing)


def blank_card(request: CandidateRequest, modules: Mapping[str, Adapter]) -> LoRACard:
    """A card of this request with these modules; rank and alpha are the head's, if it has one."""
    first = modules.get(HEAD) or next(iter(modules.values()))
    when: dict[str, Any] = {} if request.created is None else {"created": request.created}
    return LoRACard(
        name=request.skill,
        version=request.version,
        rank=first.rank,
        alpha=first.alpha,
        target_modules=tuple(sorted(modules)),
        base_model=request.base_model,
        dim=request.data.dim,
        description=request.description,
        modules=modules,
        data_digest=request.data_digest,
        trainer=TRAINER,
        parents=request.parents,
        **when,
    )


def fold_groups(data: TrainingSet, fold: int) -> Sequence[int]:
    """Ids of all groups of a fold: what its fold model was kept away from."""
    if not 0 <= fold < FOLDS:
        raise ConfigError(f"folds lie in 0 to {FOLDS - 1}, not {fold}")
    ids: list[int] = np.unique(data.groups[data.folds == fold]).tolist()
    return ids


def _kept_away(request: CandidateRequest, fold: int) -> Sequence[int]:
    """Ids of the groups that neither the head of a fold model nor the body below it has seen.

    Where the champion's body has no model of this fold the version's own stands in for it, which
    was trained on the old queries of the fold.
    """
    groups, champion = fold_groups(request.data, fold), request.champion
    if champion is None or not champion.card.body or champion.seen is None:
        return groups
    below = champion.folds.get(fold)
    away = set() if below is None else set(unpack_groups(below.extra).tolist())
    seen = set(champion.seen.tolist()) - away
    return [group for group in groups if group not in seen]


def _modules(
    request: CandidateRequest, head: Adapter | None, fold: int | None
) -> dict[str, Adapter]:
    """The head, upon the champion's body where it has one: its fold's, or the version's own."""
    modules: dict[str, Adapter] = {}
    champion = request.champion
    if champion is not None and champion.card.body:
        below = champion.card if fold is None else champion.folds.get(fold, champion.card)
        modules.update(below.body)
    if head is not None or not modules:
        modules[HEAD] = head or identity_head(request.data.dim)
    return modules


def _routing(request: CandidateRequest, arena: Arena) -> tuple[Routing, npt.NDArray[np.bool_]]:
    """The routing fitted on all queries to be trusted, and which of the arena's would be routed.

    What a teacher wrote widens what a card knows as its own; rates and choices are people's alone.
    """
    data = request.data
    taught = np.zeros(len(data.queries), bool)
    found = (data.label_value >= 0.5) & data.known[data.label_passage]
    taught[data.label_query[found]] = True
    rows = np.flatnonzero(data.real | (taught & (data.weights >= TRUSTED)))
    negatives = request.negatives.reshape(-1, data.dim)
    routing = fit_routing(
        data.query_vectors[rows],
        data.groups[rows],
        data.folds[rows],
        negatives,
        neighbours=[neighbour_of(card) for card in _neighbours(request)],
        judged=data.real[rows],
        description=request.description_vector,
        seed=request.seed,
    )
    kept = np.ones(len(data.queries), bool)
    kept[rows] = routing.kept
    return routing, kept[arena.rows]


def _neighbours(request: CandidateRequest) -> list[LoRACard]:
    """The cards that its queries may be taken for."""
    return neighbours_of(request.neighbours, request.skill, request.base_model.sha256)


def _on_anchors(request: CandidateRequest, card: LoRACard) -> tuple[float, float]:
    anchors = request.anchors
    if anchors is None:
        return 0.0, 0.0
    positive = anchors.label_query[anchors.label_value >= 0.5]
    arena = Arena(anchors, np.unique(positive), trusted=True)
    if not len(arena.rows):
        raise NothingToLearn("the anchor set has no relevant pair")
    old = champion_vectors(anchors, arena, request.champion, request.encode)
    new = champion_vectors(anchors, arena, Champion(card), request.encode)
    return mrr(arena.ranks(old)), mrr(arena.ranks(new))


def _sweep_config(request: CandidateRequest) -> SweepConfig:
    """The factory's settings over the defaults; unknown names are refused."""
    given = dict(request.settings)
    grid = given.pop("grid", None)
    data = request.data
    held = bounds(
        request.memory_budget, len(data.queries), len(data.passages), data.dim, body=False
    )
    base = SweepConfig(
        time_budget_s=request.time_budget_s,
        max_rank=largest_head(request),
        max_queries=held.queries,
        passage_cap=held.passages,
        seed=request.seed,
    )
    known = {"checkpoints", "scales", "max_passages", "max_rank", "soft_temperature"}
    one = {field.name for field in fields(HeadConfig)} - {"steps"}
    unknown = set(given) - known - one
    if unknown:
        raise ConfigError(f"unknown settings of a head: {', '.join(sorted(unknown))}")
    changes = {name: given[name] for name in known & set(given)}
    changes |= {name: tuple(changes[name]) for name in ("checkpoints", "scales") if name in changes}
    every = {name: given[name] for name in one & set(given)}
    try:
        if grid is None:
            configs = tuple(dict.fromkeys(_with(config, every) for config in base.grid))
        else:
            configs = tuple(HeadConfig(**{**every, **entry}) for entry in grid)
        return replace(base, grid=configs, **changes)
    except TypeError as error:
        raise ConfigError(f"settings of the head cannot be used: {error}") from error


def largest_head(request: CandidateRequest) -> int:
    """The rank that the schedule allows, and no less than the champion's."""
    real = request.data.real
    rank = head_rank(len(np.unique(request.data.groups[real])))
    before = request.champion.card.head if request.champion else None
    return rank if before is None else max(rank, min(before.rank, request.data.dim))


def _with(config: HeadConfig, given: Mapping[str, Any]) -> HeadConfig:
    """The config with these values; a temperature moves a config that has its own in proportion."""
    values = dict(given)
    if "temperature" in values:
        values["temperature"] *= config.temperature / HeadConfig().temperature
    return replace(config, **values)


def _chosen(choice: Choice) -> dict[str, Metric]:
    return {
        "scale": choice.scale,
        "steps": choice.step,
        "temperature": choice.config.temperature,
        "learning_rate": choice.config.learning_rate,
        "weight_decay": choice.config.weight_decay,
        "dropout": choice.config.dropout,
        "inner_score": choice.score,
        "taught_weight": choice.config.taught_weight,
    }
