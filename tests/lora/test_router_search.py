"""However the index searches, it answers as a search through everything would."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lora import LoRARouter
from lora.adapter import Adapter
from lora.boundary import BOUNDARY, Boundary
from lora.card import BaseModel, LoRACard
from lora.neighbours import AMBIGUOUS, BETWEEN, beside_key, stacks_key
from lora.sieve import Sieve

DIM = 256
SKILLS = 450
MODEL = BaseModel("test", "0" * 64)
ONES = np.ones((DIM, 1), np.float32)
HEAD = {"embedding": Adapter(ONES, ONES.T.copy(), 1, 1.0)}

Kept = dict[str, tuple[LoRACard, str | None]]
"""By digest: a card, and its author."""


class Plainly:
    """What the router promises, as it is written, without an index; of own cards and others'."""

    def __init__(self, kept: Kept, least: dict[str, float]) -> None:
        """`least` is what the check upon claims left of the thresholds; it has its own tests."""
        self.kept = {it: entry for it, entry in kept.items() if math.isfinite(least[it])}
        self.least = least
        self.points = {it: unit(card.prototypes) for it, (card, _) in self.kept.items()}
        self.planes = {it: Boundary.of(card.extra, DIM) for it, (card, _) in self.kept.items()}
        self.known: dict[bytes, dict[str, float]] = {}

    def scores(self, query: np.ndarray) -> dict[str, float]:
        if query.tobytes() not in self.known:
            self.known[query.tobytes()] = {
                digest: float(np.round((points @ unit(query)).max(), 6))
                for digest, points in self.points.items()
            }
        return self.known[query.tobytes()]

    def hits(self, query: np.ndarray) -> list[tuple[float, str]]:
        found = []
        for digest, score in self.scores(query).items():
            plane = self.planes[digest]
            inside = plane is None or bool(plane.holds(unit(query)[None])[0])
            if np.float32(score) >= np.float32(self.least[digest]) and inside:
                found.append((-score, digest))
        return sorted(found)

    def decide(self, query: np.ndarray, top_k: int) -> tuple[list[str], str | None]:
        scores, hits = self.scores(query), self.hits(query)
        names, reason = self._judged(scores, hits, top_k)
        if reason == "ambiguous" and self.kept[hits[0][1]][1] is not None:
            left = [hit for hit in hits if self.kept[hit[1]][1] is None]
            if left:
                names, reason = self._judged(scores, left, top_k)
        return names, reason

    def _judged(
        self, scores: dict[str, float], hits: list[tuple[float, str]], top_k: int
    ) -> tuple[list[str], str | None]:
        if not hits:
            return [], "below_threshold"
        best, first = -hits[0][0], hits[0][1]
        card, author = self.kept[first]
        rivals = [it for it in scores if it != first and (author is not None or self.own(it))]
        if any(scores[it] > best and not self.told(card, it) for it in rivals):
            return [], "ambiguous"
        close = {digest for score, digest in hits[1:] if best + score < AMBIGUOUS}
        for other in close & set(rivals):
            if not self.told(card, other) and not self.told(self.kept[other][0], first):
                return [], "ambiguous"
        chosen = [first]
        for score, digest in hits[1:]:
            if len(chosen) == top_k or best + score > BETWEEN:
                break
            keys = (stacks_key(digest),)
            if all(self.kept[it][0].metrics.get(*keys, 0) > 0 for it in chosen):
                chosen.append(digest)
        return chosen, None

    def own(self, digest: str) -> bool:
        return self.kept[digest][1] is None

    def told(self, card: LoRACard, other: str) -> bool:
        return beside_key(self.kept[other][0].name) in card.metrics


def unit(rows: Any) -> np.ndarray:
    found = np.asarray(rows, np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def spectrum(kind: str) -> np.ndarray:
    """How far vectors spread along each direction: as those of a model do, or the same along all,
    where no sieve is of use."""
    return np.ones(DIM) if kind == "round" else 1.0 / (3.0 + np.arange(DIM))


def population(kind: str, planes: bool, rng: np.random.Generator) -> tuple[Kept, np.ndarray]:
    along = spectrum(kind)
    centres = rng.normal(size=(SKILLS, DIM)) * along
    kept: Kept = {}
    for number, centre in enumerate(centres):
        points = centre + 0.5 * rng.normal(size=(int(rng.integers(3, 9)), DIM)) * along
        normal = unit(centre).astype(np.float16).astype(np.float32)
        extra = {BOUNDARY: Boundary(normal, 0.2).to_text()} if planes and number % 9 else {}
        others = [number - 1, number - 2, number + 1]
        metrics: dict[str, Any] = {beside_key(f"s{other}"): 0.0 for other in others}
        metrics |= {stacks_key(digest_of(other)): 0.1 for other in others}
        card = LoRACard(
            name=f"s{number}",
            rank=1,
            alpha=1.0,
            target_modules=("embedding",),
            base_model=MODEL,
            dim=DIM,
            modules=HEAD,
            prototypes=points.astype(np.float32),
            threshold=float(rng.choice([0.2, 0.5, 0.8])),
            metrics=metrics,
            extra=extra,
            digest=digest_of(number),
        )
        kept[digest_of(number)] = card, "anne" if number % 50 == 7 else None
    return kept, centres


def digest_of(number: int) -> str:
    return f"sha256:{(number * 2654435761) % 2**64:016x}".ljust(71, "0")


def register(router: LoRARouter, kept: Kept) -> None:
    for card, author in kept.values():
        router.register_card(card, author=author)


@pytest.mark.parametrize("planes", [True, False], ids=["boundaries", "none"])
@pytest.mark.parametrize("kind", ["model", "round"])
def test_it_answers_as_a_plain_search_does(kind: str, planes: bool) -> None:
    rng = np.random.default_rng(1)
    kept, centres = population(kind, planes, rng)
    router = LoRARouter(DIM)
    register(router, kept)
    # Some leave, and come again into what others left.
    for digest in list(kept)[::5]:
        router.remove_card(digest)
    for digest in list(kept)[::10]:
        card, author = kept[digest]
        router.register_card(card, author=author)
    kept = {it: kept[it] for it in router.cards()}
    plain = Plainly(kept, {digest: router.least(digest) for digest in kept})
    along = spectrum(kind)
    near = centres[rng.permutation(SKILLS)[:25]] + 0.5 * rng.normal(size=(25, DIM)) * along
    between = (centres[20:30] + centres[21:31]) / 2
    queries = np.concatenate([near, between, rng.normal(size=(15, DIM)) * along])
    queries = np.concatenate([queries, [card.prototypes[0] for card, _ in kept.values()][:10]])
    queries = queries.astype(np.float32)
    for top_k in (1, 3):
        expected = [plain.decide(query, top_k) for query in queries]
        assert len({reason for _, reason in expected}) > 1
        for found in (
            router.decide(queries, top_k),
            [it for query in queries for it in router.decide(query[None], top_k)],
        ):
            assert [([m.digest for m in it.matches], it.reason) for it in found] == expected
    hits = [[digest for _, digest in plain.hits(query)] for query in queries]
    assert [[m.digest for m in row] for row in router.select_many(queries, SKILLS)] == hits
    best = [max(plain.scores(query).values()) for query in queries]
    assert router.scores(queries) == pytest.approx(np.array(best), abs=1e-5)


def test_no_bound_is_below_its_cosine() -> None:
    """Of points that the basis was not made for, too, and of those that lie in it wholly."""
    rng = np.random.default_rng(0)
    points = unit(rng.normal(size=(600, DIM)) * spectrum("model"))
    odd = unit(rng.normal(size=(300, DIM)))
    sieve = Sieve(points, 900)
    sieve.put(slice(600, 900), odd)
    everything = np.concatenate([points, odd])
    queries = np.concatenate([everything[::40], unit(rng.normal(size=(20, DIM)))])
    sieved = sieve.bounds(queries, 900)
    cosines = queries @ everything.T
    assert (sieved.most >= cosines).all()
    for row in range(len(queries)):
        among = np.arange(900)
        left = sieve.left(sieved, row, among, cosines[row])
        assert len(left) == 900, "each may have its own cosine"
        left = sieve.left(sieved, row, among, np.float32(0.6))
        assert set(np.flatnonzero(cosines[row] >= 0.6)) <= set(left.tolist())
    assert (sieved.most[:15] > 0.7).mean() < 0.5, "and most say something"
