"""Whether another skill's card helps upon a new one, for the queries that sit between the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lora.adapter import Adapter
from lora.boundary import Boundary
from lora.card import LoRACard
from lora.head import bend
from lora.neighbours import BETWEEN, MOST_NEIGHBOURS, beside_key, stacks_key
from lora.training.calibration import Neighbour, Routing, routing_scores
from lora.training.dataset import TrainingSet
from lora.training.gate import CONFIDENCE, MIN_GROUPS, Arena, judge, unit

__all__ = ["beside_metrics", "neighbour_of", "neighbours_of", "stacking_metrics"]


def neighbours_of(cards: Sequence[LoRACard], skill: str, model: str) -> list[LoRACard]:
    """Of installed cards those of other skills that are routed to, made for this base model."""
    return [
        card
        for card in sorted(cards, key=lambda card: (card.name, card.version))
        if card.name != skill
        and card.base_model.sha256 == model
        and card.prototypes is not None
        and card.threshold is not None
    ][:MOST_NEIGHBOURS]


def neighbour_of(card: LoRACard) -> Neighbour:
    """How a card that is routed to (see `neighbours_of`) routes."""
    prototypes = np.zeros((0, card.dim)) if card.prototypes is None else card.prototypes
    least = np.inf if card.threshold is None else card.threshold
    return Neighbour(card.name, unit(prototypes), least, Boundary.of(card.extra, card.dim))


def beside_metrics(routing: Routing, cards: Sequence[LoRACard]) -> dict[str, float]:
    """Of each neighbour the share of its prototypes that the routing alone would take, 0 to 1."""
    found: dict[str, float] = {}
    if routing.prototypes is None or routing.threshold is None:
        return found
    for card in cards:
        points = neighbour_of(card).prototypes
        taken = routing_scores(points, routing.prototypes) >= routing.threshold
        if routing.boundary is not None:
            taken &= routing.boundary.holds(points)
        found[beside_key(card.name)] = float(taken.mean())
    return found


def stacking_metrics(
    data: TrainingSet,
    routing: Routing,
    folds: Mapping[int, Adapter | None],
    cards: Sequence[LoRACard],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Lower end of the interval of the gain in MRR@10 from each neighbour's head upon the new one.

    `folds`: the new heads, each fitted without its fold (None: no change). Judged by the gate's
    bootstrap on the held-out feedback that would come to the new card, whose scores for both skills
    lie close together and pass both; the more neighbours there are, the surer it must be. At most 0
    where chance alone may have done it. Those with bodies, and those with too few queries between,
    have no evidence.
    """
    if routing.prototypes is None or routing.threshold is None:
        return {}
    arena = Arena(data)
    base = data.query_vectors[arena.rows]
    scores = routing_scores(base, routing.prototypes)
    between: list[tuple[LoRACard, Adapter, npt.NDArray[np.int64]]] = []
    for card in cards:
        if card.head is None or card.body or card.digest is None:
            continue
        other = neighbour_of(card).claims(unit(base))
        apart = scores - other
        rows = np.flatnonzero(routing.kept & (apart >= 0) & (apart <= BETWEEN))
        if len(np.unique(arena.groups[rows])) >= MIN_GROUPS:
            between.append((card, card.head, rows))
    found: dict[str, float] = {}
    for card, head, rows in between:
        part = Arena(data, arena.rows[rows])
        alone, stacked = (
            part.ranks(_bent(base[rows], part.folds, folds, upon)) for upon in ([], [head])
        )
        sure = 1.0 - (1.0 - CONFIDENCE) / len(between)
        verdict = judge(alone, stacked, part.groups, seed=seed, confidence=sure)
        found[stacks_key(card.digest or "")] = (
            verdict.low if verdict.accepted else min(verdict.low, 0.0)
        )
    return found


def _bent(
    base: npt.NDArray[np.float32],
    parts: npt.NDArray[np.int8],
    folds: Mapping[int, Adapter | None],
    upon: Sequence[Adapter],
) -> npt.NDArray[np.float32]:
    """Base vectors (k, dim) bent by the head of each query's fold and by `upon`."""
    bent = np.array(base, np.float32)
    for fold in np.unique(parts):
        own = folds.get(int(fold))
        rows = parts == fold
        bent[rows] = bend(base[rows], [*([] if own is None else [own]), *upon])
    return bent
