"""However the index searches, it answers as a search through everything would."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from lora import LoRARouter
from lora.adapter import Adapter
from lora.boundary import BOUNDARY, Boundary
from lora.card import BaseModel, LoRACard
from lora.head import normalize
from lora.neighbours import AMBIGUOUS, BETWEEN, beside_key, stacks_key
from lora.router import Decision
from lora.shelf import Shelf
from lora.sieve import Sieve

DIM = 256
SKILLS = 450
MODEL = BaseModel("test", "0" * 64)
ONES = np.ones((DIM, 1), np.float32)
HEAD = {"embedding": Adapter(ONES, ONES.T.copy(), 1, 1.0)}


class Entry(NamedTuple):
    card: LoRACard
    author: str | None
    virtual: bool = False


Kept = dict[str, Entry]
"""By digest."""

Query = tuple[float, ...]


class Plainly:
    """What the router promises, as it is written, without an index; of own cards and others'."""

    def __init__(self, kept: Kept, least: dict[str, float]) -> None:
        """`least` is what the check upon claims left of the thresholds; it has its own tests."""
        self.kept = {it: entry for it, entry in kept.items() if math.isfinite(least[it])}
        self.least = least
        self.points = {it: unit(entry.card.prototypes) for it, entry in self.kept.items()}
        self.planes = {it: Boundary.of(of.card.extra, DIM) for it, of in self.kept.items()}
        self.virtual = {it for it, entry in self.kept.items() if entry.virtual}
        self.foreign = {it for it, entry in self.kept.items() if entry.author is not None}
        self.scores, self.hits = cache(self._scores), cache(self._hits)

    def _scores(self, query: Query) -> dict[str, float]:
        return {
            digest: float(np.round((points @ unit(query)).max(), 6))
            for digest, points in self.points.items()
        }

    def _hits(self, query: Query) -> list[tuple[float, str]]:
        if not any(query):
            return []
        found = []
        for digest, score in self.scores(query).items():
            plane = self.planes[digest]
            inside = plane is None or bool(plane.holds(unit(query)[None])[0])
            if np.float32(score) >= np.float32(self.least[digest]) and inside:
                found.append((-score, digest))
        return sorted(found)

    def decide(
        self, query: Query, top_k: int, without: Collection[str] = ()
    ) -> tuple[list[str], str | None]:
        scores = self.scores(query)
        hits = [hit for hit in self.hits(query) if hit[1] not in without]
        names, reason = self._judged(scores, hits, top_k)
        for claims in (self.virtual, self.foreign):
            if reason == "ambiguous" and hits[0][1] in claims:
                left = [hit for hit in hits if hit[1] not in claims]
                if not left:
                    break
                hits, (names, reason) = left, self._judged(scores, left, top_k)
        return names, reason

    def _judged(
        self, scores: dict[str, float], hits: list[tuple[float, str]], top_k: int
    ) -> tuple[list[str], str | None]:
        if not hits:
            return [], "below_threshold"
        best, first = -hits[0][0], hits[0][1]
        author = self.kept[first].author
        here = [it for it in scores if it != first and it not in self.virtual]
        rivals = [it for it in here if author is not None or it not in self.foreign]
        if any(scores[it] > best and not self.told(first, it) for it in rivals):
            return [], "ambiguous"
        close = {digest for score, digest in hits[1:] if best + score < AMBIGUOUS}
        for other in close & set(rivals):
            if not self.told(first, other) and not self.told(other, first):
                return [], "ambiguous"
        chosen = [first]
        for score, digest in hits[1:]:
            if len(chosen) == top_k or best + score > BETWEEN:
                break
            key = stacks_key(digest)
            below = [{} if it in self.foreign else self.kept[it].card.metrics for it in chosen]
            if all(metrics.get(key, 0) > 0 for metrics in below):
                chosen.append(digest)
        return chosen, None

    def told(self, one: str, other: str) -> bool:
        """What another author's card says of its neighbours is not heeded."""
        said = {} if one in self.foreign else self.kept[one].card.metrics
        return beside_key(self.kept[other].card.name) in said


def unit(rows: Any) -> np.ndarray:
    return normalize(np.asarray(rows, np.float32))


def half(rows: np.ndarray) -> np.ndarray:
    """With the precision in which boundaries are written."""
    return rows.astype(np.float16).astype(np.float32)


def spectrum(kind: str) -> np.ndarray:
    """How far vectors spread along each direction: as those of a model do, or the same along all,
    where no sieve is of use."""
    return np.ones(DIM) if kind == "round" else 1.0 / (3.0 + np.arange(DIM))


def drawn(kind: str, rng: np.random.Generator, about: np.ndarray, spread: float) -> np.ndarray:
    """Vectors about others, one for each of these rows.

    Of `signs` every coordinate has the same length or is zero, so that cosines are multiples of
    1/128 on every machine: many are the same, and some are thresholds.
    """
    if kind == "signs":
        return about * np.where(rng.random(about.shape) < spread / 4, -1, 1)
    return about + spread * rng.normal(size=about.shape) * spectrum(kind)


def centres_of(kind: str, rng: np.random.Generator, count: int) -> np.ndarray:
    if kind != "signs":
        return drawn(kind, rng, np.zeros((count, DIM)), 1.0)
    signs = np.sign(rng.normal(size=(count, DIM)))
    signs[: 3 * count // 4, DIM // 4 :] = 0  # the sieve says of these all there is to say
    return signs


def between(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """As near to the one as to the other, and of signs still signs."""
    return np.where(np.arange(DIM) % 2, some, others)


def apart(kind: str, rng: np.random.Generator, some: np.ndarray) -> np.ndarray:
    """Vectors that lie about these, and further in directions in which no point does; every other
    one so far that it is hardly nearer to these than to any."""
    if kind == "signs":
        return np.where(some == 0, centres_of(kind, rng, 4)[-1], some)
    far = np.where(np.arange(len(some)) % 2, 2.4, 1.2)[:, None]
    return unit(some) + far * unit(rng.normal(size=some.shape))


def population(kind: str, planes: bool, rng: np.random.Generator) -> tuple[Kept, np.ndarray]:
    centres = centres_of(kind, rng, SKILLS)
    kept: Kept = {}
    for number, centre in enumerate(centres):
        points = drawn(kind, rng, np.tile(centre, (int(rng.integers(3, 9)), 1)), 0.5)
        plane = Boundary(half(unit(centre)), float(rng.choice([0.25, 0.5, 0.75])))
        if number % 9 < 3:  # that of another card says nothing of where these points lie
            plane = Boundary(half(unit(centres[-number])), float(rng.choice([-0.25, 0.0])))
        extra = {BOUNDARY: plane.to_text()} if planes and number % 9 else {}
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
            threshold=float(rng.choice([0.25, 0.5, 0.75])),
            metrics=metrics,
            extra=extra,
            digest=digest_of(number),
        )
        theirs = number % 25 == 7
        kept[digest_of(number)] = Entry(card, "anne" if theirs else None, number % 50 == 7)
    return kept, centres


def digest_of(number: int) -> str:
    return f"sha256:{(number * 2654435761) % 2**64:016x}".ljust(71, "0")


def register(router: LoRARouter, kept: Kept) -> None:
    for digest, (card, author, virtual) in kept.items():
        if not virtual:
            router.register_card(card, author=author)
            continue
        router.register_virtual_candidate(
            card.name,
            digest,
            card.prototypes,
            threshold=card.threshold,
            boundary=Boundary.of(card.extra, DIM),
            author=author or "",
        )


def said(decisions: list[Decision]) -> list[tuple[list[str], str | None]]:
    return [([match.digest for match in it.matches], it.reason) for it in decisions]


@pytest.mark.parametrize(
    ("kind", "planes", "tight"),
    [
        ("model", True, False),
        ("model", False, True),
        ("round", True, True),
        ("signs", True, False),
        ("signs", False, True),
    ],
    ids=["model", "model-no-boundaries", "round", "ties", "ties-no-boundaries"],
)
def test_it_answers_as_a_plain_search_does(
    kind: str, planes: bool, tight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it takes for few, and for near: among so few skills its limits hardly count."""
    if tight:
        monkeypatch.setattr("lora.near.FEW", 32)
        monkeypatch.setattr("lora.near.SPARSE", 16)
        monkeypatch.setattr("lora.near.AHEAD", 0.0)
        monkeypatch.setattr("lora.near.LIKELY", 4)
    rng = np.random.default_rng(1)
    kept, centres = population(kind, planes, rng)
    router = LoRARouter(DIM)
    register(router, kept)
    # Some leave, and come again into what others left.
    router.remove_card(*list(kept)[::5])
    register(router, dict(list(kept.items())[::10]))
    kept = {it: kept[it] for it in router.cards()}
    plain = Plainly(kept, {digest: router.least(digest) for digest in kept})
    claims = np.arange(7, SKILLS, 25)
    about = centres[np.concatenate([rng.permutation(SKILLS)[:25], claims])]
    queries = np.concatenate(
        [
            drawn(kind, rng, about, 0.5),
            between(centres[20:30], centres[21:31]),
            between(centres[claims], centres[claims + 1]),
            apart(kind, rng, centres[1:200:9]),
            centres_of(kind, rng, 16)[::-1],
            np.zeros((1, DIM)),
            [entry.card.prototypes[0] for entry in kept.values()][:10],
        ]
    ).astype(np.float32)
    asked = [tuple(query) for query in queries.tolist()]
    offered = [it for it, entry in kept.items() if entry.virtual]
    for top_k, without in ((1, []), (3, []), (1, offered[::2]), (3, offered)):
        expected = [plain.decide(query, top_k, without) for query in asked]
        assert len({reason for _, reason in expected}) > 1
        assert said(router.decide(queries, top_k, without=without)) == expected
        for query, alone in zip(queries, expected, strict=True):
            assert said(router.decide(query[None], top_k, without=without)) == [alone]
    assert said(router.decide(queries, 3, offers=False)) == expected, "as without all offers"
    hits = [[digest for _, digest in plain.hits(query)] for query in asked]
    first = [[match.digest for match in row] for row in router.select_many(queries, 1)]
    assert first == [row[:1] for row in hits]
    for row, query in zip(router.select_many(queries, SKILLS), asked, strict=True):
        assert {match.digest for match in row} == {digest for _, digest in plain.hits(query)}
        # Scores a millionth apart may change places from one way to multiply to another.
        expected_scores = [-score for score, _ in plain.hits(query)]
        assert [match.score for match in row] == pytest.approx(expected_scores, abs=2e-6)
    best = [max(plain.scores(query).values()) for query in asked]
    assert router.scores(queries) == pytest.approx(np.array(best), abs=1e-5)


def test_one_alone_that_a_skill_answers_is_not_compared_with_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even where few columns say little of it: boundaries tell what is nowhere near."""
    rng = np.random.default_rng(2)
    kept, _ = population("round", True, rng)
    router = LoRARouter(DIM)
    register(router, kept)
    points = np.concatenate([entry.card.prototypes for entry in kept.values()])[::40]
    queries = unit(points + 0.8 * rng.normal(size=points.shape))
    expected = said(router.decide(queries))
    answered = [row for row, (named, _) in enumerate(expected) if named]
    everything = Shelf.scores

    def seldom(shelf: Shelf, unit: np.ndarray) -> np.ndarray:
        assert shelf.sieve is None, "all points were read"
        return everything(shelf, unit)

    monkeypatch.setattr(Shelf, "scores", seldom)
    assert len(answered) > 10
    for row in answered:
        assert said(router.decide(queries[row][None])) == [expected[row]]


def test_bounds_follow_the_skills_that_come_and_go() -> None:
    """Rows and slots are used again, by points with other boundaries, or with none."""
    rng = np.random.default_rng(3)
    shelf = Shelf(DIM)

    def put(number: int) -> None:
        points = unit(rng.normal(size=(int(rng.integers(3, 9)), DIM)))
        boundary = Boundary(half(points.mean(axis=0)), 0.1) if rng.random() < 0.8 else None
        shelf.put(f"s{number}", points, 0.5, 0.0, boundary)

    for number in range(450):
        put(number)
    for number in range(0, 450, 2):
        shelf.drop(f"s{number}")
    for number in range(450, 750):
        put(number)
    assert shelf.sieve is not None
    queries = unit(shelf.points[::50] + 0.05 * rng.normal(size=shelf.points[::50].shape))
    sieved = shelf.sieve.bounds(queries, len(shelf.owners))
    along = shelf.along(queries)
    assert along is not None
    taken = np.isfinite(shelf.least)
    for row, scores in enumerate(shelf.scores(queries)):
        closer = shelf.sieve.closer(sieved, row, shelf.slots, along[row])
        assert (closer >= scores)[taken].all()


def test_no_bound_is_below_its_cosine() -> None:
    """Of points that the basis was not made for, too, of those that lie in it wholly, and of those
    that lean along their boundary's normal or the other way, whatever its length."""
    rng = np.random.default_rng(0)
    points = unit(rng.normal(size=(600, DIM)) * spectrum("model"))
    odd = unit(rng.normal(size=(300, DIM)))
    everything = np.concatenate([points, odd])
    slots = np.arange(900) // 3
    normals = everything[::3] + 0.02 * rng.normal(size=(300, DIM)).astype(np.float32)
    normals *= np.resize([1, -3, 1e-4, 6e4], (300, 1)).astype(np.float32)
    normals[::7] = 0
    normals[3::7] = np.linalg.svd(points)[2][0]  # lies in the basis, as far as can be told
    sieve = Sieve(points, 700, slots[:600], normals[:200])
    sieve.grow(900)
    for slot in range(200, 300):
        rows = np.flatnonzero(slots == slot).tolist()
        sieve.put(rows, everything[rows[::-1]], slot, -normals[slot])
        sieve.put(rows, everything[rows], slot, normals[slot])
    away = unit(rng.normal(size=(20, DIM)))
    queries = np.concatenate([everything[::40], away, unit(normals[1:40:3]), -away[:5]])
    sieved = sieve.bounds(queries, 900)
    cosines = queries @ everything.T
    assert (sieved.most >= cosines).all()
    closer = []
    for row, query in enumerate(queries):
        among = np.arange(900)
        left = sieve.left(sieved, row, among, cosines[row])
        assert len(left) == 900, "each may have its own cosine"
        left = sieve.left(sieved, row, among, np.float32(0.6))
        assert set(np.flatnonzero(cosines[row] >= 0.6)) <= set(left.tolist())
        closer.append(sieve.closer(sieved, row, slots, normals @ query))
        assert (closer[-1] >= cosines[row]).all()
    assert (sieved.most[:15] > 0.7).mean() < 0.5, "and most say something"
    slack = np.array(closer) - cosines
    has = normals.any(axis=1)[slots]
    assert slack[:, has].mean() < 0.9 * slack[:, ~has].mean(), "a boundary says more"
