"""From a dataset to a judged candidate with a body: the deeper of a card's two depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from lora.adapter import HEAD, Adapter, FloatArray
from lora.card import LoRACard
from lora.engine import ArrowEngine
from lora.probe import WeightMapProbe
from lora.training.body_fit import BodyConfig
from lora.training.body_layout import calibration_texts, compare_layouts, probe_layout
from lora.training.body_settings import BodyChoice, BodySweep, TrainedBody
from lora.training.body_sweep import train_body
from lora.training.candidate import (
    Candidate,
    CandidateRequest,
    Metric,
    blank_card,
    fold_groups,
    judge_candidate,
    largest_head,
)
from lora.training.champion import identity_head, pack_groups, unpack_groups
from lora.training.checkpoint import Checkpoints
from lora.training.errors import ConfigError, NothingToLearn, TrainingError
from lora.training.gate import Arena
from lora.training.memory import bounds
from lora.training.progress import Progress
from lora.training.schedule import body_rank, scheduled

__all__ = [
    "BodyChoice",
    "BodyConfig",
    "BodySweep",
    "TrainedBody",
    "body_candidate",
    "train_body",
]

_RESERVE_S = 6.0
"""Kept of the time budget for what comes before and after training: imports, gate and routing."""


def body_candidate(
    request: CandidateRequest,
    *,
    progress: Progress | None = None,
    model: str | None = None,
    engine: ArrowEngine | None = None,
    threads: int = 2,
    checkpoints: Checkpoints | None = None,
) -> Candidate:
    """Train a body with its head and judge both together; minutes, with torch.

    `request.time_budget_s` is kept by planning: fewer passes and inner fits first, then one fold
    held out instead of all (from 200 query groups on). `request.settings` may override any field of
    `BodyConfig` and the shares that `BodySweep` tries. `threads` is how many fits run at once.
    Ranks follow `schedule` where no setting says otherwise. Where the champion has a body, and fold
    models that know nothing of their folds, training begins from these; else, where the setting
    `probe` is true, the layout that `WeightMapProbe` suggests is tried beside the default one
    (`body_layout`). With `checkpoints` a training that was killed goes on, and what it had spent
    counts.

    Raises:
        ConfigError: a setting is unknown or out of range.
        NoMatchingModuleError: a target, or a key of `ranks`, means no Linear layer of the model.
        NothingToLearn: the data holds nothing that a card could be trained or judged on.
        TrainingError: the model is not the one that the dataset's vectors come from.
    """
    kept = checkpoints or Checkpoints()
    data = request.data
    sweep = _sweep(request, threads)
    arena = Arena(data)
    if not len(arena.rows):
        raise NothingToLearn("the dataset holds no real feedback with a relevant passage")
    engine = engine or ArrowEngine(model)
    if engine.base_model.sha256 != request.base_model.sha256:
        raise TrainingError(
            f"the dataset's vectors come from {request.base_model.id} "
            f"({request.base_model.sha256[:12]}…), the model here is {engine.base_model.id} "
            f"({engine.base_model.sha256[:12]}…)"
        )
    initial = _initial(request, arena)
    known = {name for name, _ in engine.module.named_modules()}
    if "ranks" not in request.settings and not set(sweep.config.ranks) <= known:
        # A champion from elsewhere may name its modules otherwise: nothing to begin from.
        sweep = replace(sweep, config=replace(sweep.config, ranks={}))
    ranks = sweep.config.ranks
    if any(a.rank > ranks.get(name, 0) for body in initial.values() for name, a in body.items()):
        initial = {}
    budget = max(1.0, request.time_budget_s - _RESERVE_S)
    layout: Mapping[str, int] = {}
    if request.settings.get("probe") and not initial:
        report = WeightMapProbe(engine=engine).texts(calibration_texts(data))
        layout = probe_layout(report, sweep.config)

    def train(
        ranks: Mapping[str, int], until: float | None, part: Checkpoints, tell: Progress | None
    ) -> TrainedBody:
        config = replace(sweep.config, ranks=ranks) if ranks else sweep.config
        return train_body(
            data,
            arena,
            engine,
            replace(sweep, config=config, time_budget_s=until),
            initial=initial,
            checkpoints=part,
            progress=tell,
        )

    compared: dict[str, Metric] = {}
    if layout:
        found = compare_layouts(
            train,
            layout,
            data,
            arena,
            time_budget_s=budget,
            checkpoints=kept,
            seed=request.seed,
            progress=progress,
        )
        trained, compared = found.trained, dict(found.metrics)
        # Two were judged on the same queries, and the better one goes on.
        request = replace(request, attempts=request.attempts + 1)
        if found.layout:
            sweep = replace(sweep, config=replace(sweep.config, ranks=found.layout))
    else:
        trained = train({}, budget, kept, progress)
    request = replace(request, encode=_encoder(engine))
    folds = {
        fold: replace(
            blank_card(request, modules or {HEAD: identity_head(data.dim)}),
            extra=pack_groups(fold_groups(data, fold)),
        )
        for fold, modules in trained.folds.items()
    }
    final = blank_card(request, trained.modules or {HEAD: identity_head(data.dim)})
    # Where one fold was held out, only its queries can be judged.
    judged_arena = Arena(data, arena.rows[trained.judged])
    judged = judge_candidate(request, final, judged_arena, trained.vectors[trained.judged])
    accepted, reason = judged.accepted, judged.reason
    card: LoRACard | None = judged.card
    if not trained.modules:
        accepted, card = False, None
        reason = "no body was better than no change on the inner folds"
    chosen = _chosen(trained, sweep.config) | {"continued": bool(initial)} | compared
    return Candidate(card, folds, accepted, reason, judged.metrics, chosen, kept.elapsed())


def _initial(request: CandidateRequest, arena: Arena) -> dict[tuple[int, ...], dict[str, Adapter]]:
    """Bodies to begin from, by the folds left out; none unless each fold has an honest model.

    A fold for which no body was best begins afresh, as it did then.
    """
    champion = request.champion
    if champion is None or not champion.card.body or champion.seen is None:
        return {}
    found: dict[tuple[int, ...], dict[str, Adapter]] = {(): dict(champion.card.body)}
    for fold in sorted({int(fold) for fold in arena.folds}):
        card = champion.folds.get(fold)
        known = np.intersect1d(fold_groups(request.data, fold), champion.seen)
        if card is None or not np.isin(known, unpack_groups(card.extra)).all():
            return {}
        if card.body:
            found[fold,] = dict(card.body)
    return found


def _encoder(engine: ArrowEngine) -> Any:
    def encode(texts: Sequence[str], card: LoRACard) -> FloatArray:
        return engine.encode_rows(texts, [[card]] * len(texts))

    return encode


def _sweep(request: CandidateRequest, threads: int) -> BodySweep:
    given: Mapping[str, Any] = request.settings
    of_body = {field.name for field in fields(BodyConfig)}
    of_sweep = {
        "bodies",
        "heads",
        "alone",
        "head_steps",
        "max_passages",
        "max_rank",
        "soft_temperature",
    }
    unknown = set(given) - of_body - of_sweep - {"probe"}
    if unknown:
        raise ConfigError(f"unknown settings of a body: {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in given.items()
        if name != "probe"
    }
    data = request.data
    held = bounds(request.memory_budget, len(data.queries), len(data.passages), data.dim, body=True)
    values = {
        **_ranks(request, values),
        "max_rank": largest_head(request),
        "max_queries": held.queries,
        "passage_cap": held.passages,
        "max_activations": held.activations,
        **values,
    }
    try:
        return BodySweep(
            config=BodyConfig(**{n: v for n, v in values.items() if n in of_body}),
            threads=max(1, threads),
            seed=request.seed,
            **{n: v for n, v in values.items() if n not in of_body},
        )
    except TypeError as error:
        raise ConfigError(f"settings of the body cannot be used: {error}") from error


def _ranks(request: CandidateRequest, given: Mapping[str, Any]) -> dict[str, Any]:
    """Where and how much the body is adapted: by schedule, and at least as the champion's is."""
    if {"rank", "ranks", "targets", "layers"} & set(given):
        return {}
    data, before, champion = request.data, BodyConfig(), request.champion
    groups = np.unique(data.groups[data.real])
    rank = body_rank(len(groups))
    scale = before.alpha / before.rank
    ranks: dict[str, int] = {}
    if champion is not None:
        seen = groups if champion.seen is None else np.intersect1d(groups, champion.seen)
        ranks = scheduled(rank, champion.card.body, was=body_rank(len(seen)))
    return {"rank": rank, "alpha": given.get("alpha", scale * rank), "ranks": ranks}


def _chosen(trained: TrainedBody, config: BodyConfig) -> dict[str, Metric]:
    return {
        "body_share": trained.choice.body,
        "head_share": trained.choice.head,
        "inner_score": trained.choice.score,
        "rank": config.rank,
        "layers": config.depth,
        "targets": ", ".join(config.adapted),
        "temperature": config.temperature,
        "learning_rate": config.learning_rate,
        "head_learning_rate": config.head_learning_rate,
        "epochs": trained.plan.epochs,
        "folds_judged": len(trained.plan.judged),
        "inner_fits": len(trained.plan.inner),
        "loss": trained.loss,
        "training_seconds": trained.seconds,
    }
