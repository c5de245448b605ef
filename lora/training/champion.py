"""What is served now, judged fairly: as routed, and on old feedback by the models of its folds."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from lora.adapter import Adapter
from lora.boundary import Boundary, sides
from lora.card import LoRACard
from lora.head import bend
from lora.training.calibration import routing_scores
from lora.training.dataset import TrainingSet
from lora.training.errors import ConfigError
from lora.training.gate import Arena

__all__ = [
    "Champion",
    "Encode",
    "body_vectors",
    "card_vectors",
    "champion_vectors",
    "identity_head",
    "judged_fairly",
    "pack_groups",
    "routes",
    "unpack_groups",
]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Encode = Callable[[Sequence[str], LoRACard], Floats]
"""Texts and a card with a body to vectors (k, dim) with the card applied."""

_CHUNK = 6000


@dataclass(frozen=True)
class Champion:
    """The present version of a skill."""

    card: LoRACard
    folds: Mapping[int, LoRACard] = field(default_factory=dict)
    """Its fold models, each fitted without the fold; some may be missing."""
    seen: Ints | None = None
    """(g,) ids of all groups that it was trained on; None: not known."""


def routes(card: LoRACard, base_vectors: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """(k,) whether the card answers queries with these base vectors (k, dim) by itself.

    A card for named use only counts as applied to every query of its domain.
    """
    vectors = np.asarray(base_vectors, np.float32)
    if card.threshold is None or card.prototypes is None:
        return np.ones(len(vectors), bool)
    routed: npt.NDArray[np.bool_] = routing_scores(vectors, card.prototypes) >= card.threshold
    routed &= sides(vectors, Boundary.of(card.extra, card.dim))
    return routed


def champion_vectors(
    data: TrainingSet, arena: Arena, champion: Champion | None, encode: Encode | None = None
) -> Floats:
    """Vectors (k, dim) of the arena's queries as they are served now; base without a champion.

    A query whose group a fold model was kept away from is turned by that model; any other, newer
    than the version, by the version itself. `encode` is needed where a card has a body.
    """
    base = np.array(data.query_vectors[arena.rows], np.float32)
    if champion is None:
        return base
    routed = routes(champion.card, base)
    served = base.copy()
    for card, rows in _in_charge(champion, arena.groups):
        turned = rows[routed[rows]]
        if len(turned):
            texts = [data.queries[row] for row in arena.rows[turned]]
            served[turned] = card_vectors(card, texts, base[turned], encode)
    return served


def judged_fairly(arena: Arena, champion: Champion | None) -> npt.NDArray[np.bool_]:
    """(k,) which of the arena's queries the champion can be judged on: those it never saw.

    Where some fold models are missing, the version itself answers queries that it was trained on;
    it would look better than it is. All where what it saw is not known.
    """
    fair = np.ones(len(arena.rows), bool)
    if champion is not None and champion.seen is not None:
        fair = ~np.isin(arena.groups, champion.seen)
        for card in champion.folds.values():
            fair |= np.isin(arena.groups, unpack_groups(card.extra))
    return fair


def body_vectors(data: TrainingSet, champion: Champion, encode: Encode) -> Floats:
    """Vectors (n, dim) of all queries by the bodies of the champion alone, its heads left out.

    As in `champion_vectors` old queries are encoded by the models of their folds, so that a head
    trained upon them learns from what the body makes of queries that it has not seen.
    """
    made = np.array(data.query_vectors, np.float32)
    for card, rows in _in_charge(champion, data.groups):
        if card.body and len(rows):
            alone = replace(card, modules=card.body, target_modules=(), digest=None, bytes=None)
            made[rows] = encode([data.queries[row] for row in rows], alone)
    return made


def card_vectors(
    card: LoRACard, texts: Sequence[str], base: Floats, encode: Encode | None = None
) -> Floats:
    """Vectors (k, dim) of texts with this card applied, from base vectors where it has no body."""
    if card.body:
        if encode is None:
            raise ConfigError(f"{card.name}@{card.version} has a body, and no encoder was given")
        return encode(texts, card)
    return bend(base, [card.head] if card.head else [])


def _in_charge(champion: Champion, groups: Ints) -> list[tuple[LoRACard, Ints]]:
    """Which model answers which queries: fold models those kept from them, the version the rest."""
    used = np.full(len(groups), -1)
    for fold, card in champion.folds.items():
        used[np.isin(groups, unpack_groups(card.extra))] = fold
    parts = [(champion.card, np.flatnonzero(used < 0))]
    parts += [(card, np.flatnonzero(used == fold)) for fold, card in champion.folds.items()]
    return parts


def identity_head(dim: int) -> Adapter:
    """A head that changes nothing: the model of a fold for which no change was best."""
    return Adapter(np.zeros((dim, 1), np.float32), np.zeros((1, dim), np.float32), 1, 1.0)


def pack_groups(groups: Iterable[int]) -> dict[str, str]:
    """Ids of the groups that a fold model was kept away from, as a card's extra strings."""
    ids = np.array(sorted(set(groups)), "<i8")
    text = base64.b64encode(ids.tobytes()).decode()
    return {
        f"groups.{start // _CHUNK}": text[start : start + _CHUNK]
        for start in range(0, len(text), _CHUNK)
    }


def unpack_groups(extra: Mapping[str, str]) -> npt.NDArray[np.int64]:
    """The ids that `pack_groups` wrote; none where a card holds none."""
    parts: list[str] = []
    while f"groups.{len(parts)}" in extra:
        parts.append(extra[f"groups.{len(parts)}"])
    try:
        return np.frombuffer(base64.b64decode("".join(parts), validate=True), "<i8").copy()
    except ValueError as error:
        raise ConfigError("a fold model's list of groups is not readable") from error
