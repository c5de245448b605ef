"""A card routes most of its own queries, hardly any of others, and reveals no single one."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pytest

from lora.boundary import sides
from lora.training.background import background_digest, background_questions
from lora.training.calibration import allowed_of, fit_prototypes, fit_routing, routing_scores
from lora.training.errors import ConfigError
from lora.training.gate import unit
from tests.lora.training.synthetic import DIM, away, world

Floats = npt.NDArray[np.float32]


def test_own_queries_are_routed_and_others_are_not() -> None:
    """On queries and negatives that nothing was fitted on."""
    data = world(queries=300, noise=0.2)
    routing = fit_routing(data.query_vectors, data.groups, data.folds, away(1000))
    assert routing.prototypes is not None
    assert routing.threshold is not None
    later = world(queries=300, noise=0.2, seed=1).query_vectors
    own = (routing_scores(later, routing.prototypes) >= routing.threshold).mean()
    others = routing_scores(away(4000, seed=6), routing.prototypes) >= routing.threshold
    assert own > 0.8
    assert own == pytest.approx(routing.routed, abs=0.1)
    assert others.mean() <= 0.015
    assert routing.false_routed is not None
    assert routing.false_routed <= 0.01
    assert routing.reason == ""


def test_what_was_written_widens_what_is_routed_and_rates_are_of_people_alone() -> None:
    """Few people ask; a teacher's questions show where more of them will."""
    data = world(queries=400, noise=0.3)
    asked = np.arange(400) < 40
    few = [part[asked] for part in (data.query_vectors, data.groups, data.folds)]
    alone = fit_routing(*few, away(1000))
    taught = fit_routing(data.query_vectors, data.groups, data.folds, away(1000), judged=asked)
    later = world(queries=400, noise=0.3, seed=1).query_vectors

    def share(prototypes: Floats | None, threshold: float | None) -> float:
        assert prototypes is not None
        assert threshold is not None
        return float((routing_scores(later, prototypes) >= threshold).mean())

    assert share(taught.prototypes, taught.threshold) > share(alone.prototypes, alone.threshold)
    assert taught.routed == taught.kept[asked].mean()


def test_the_share_said_to_be_routed_is_what_is_routed_later() -> None:
    """However few negatives the cut hangs on: three of them look like the skill's own."""
    later = world(queries=2000, noise=0.8, seed=77).query_vectors
    pairs = []
    for seed in range(8):
        data, negatives = world(queries=300, noise=0.8, seed=seed), away(1000, seed=50 + seed)
        negatives[:3] = world(queries=3, noise=1.2, seed=900 + seed).query_vectors
        routing = fit_routing(data.query_vectors, data.groups, data.folds, negatives, seed=seed)
        if routing.prototypes is None or routing.threshold is None:
            continue
        passed = routing_scores(later, routing.prototypes) >= routing.threshold
        pairs.append((routing.routed, (passed & sides(later, routing.boundary)).mean()))
        assert routing.routed == routing.kept.mean()
    assert len(pairs) >= 5
    said, measured = np.array(pairs).T
    assert np.abs(said - measured).max() < 0.1


def test_a_domain_like_any_other_is_for_named_use_only() -> None:
    """Queries that look like everybody's cannot be told apart: no threshold, and why."""
    own = away(200, seed=1)
    routing = fit_routing(own, np.arange(200), np.arange(200) % 5, away(800))
    assert routing.threshold is None
    assert routing.prototypes is not None
    assert "of its own queries" in routing.reason
    assert routing.kept.all()


def test_negatives_beyond_the_fitted_half_can_only_make_it_stricter() -> None:
    """Where the half not fitted on is routed too often, the threshold rises."""
    data = world(queries=200, noise=0.2)
    negatives = away(800)
    plain = fit_routing(data.query_vectors, data.groups, data.folds, negatives)
    checked = np.random.default_rng(0).permutation(800)[1::2]
    hard = negatives.copy()
    hard[checked[:40]] = data.query_vectors[:40]
    spoilt = fit_routing(data.query_vectors, data.groups, data.folds, hard)
    assert plain.threshold is not None
    assert spoilt.threshold is None
    assert "other questions" in spoilt.reason
    assert spoilt.false_routed is not None
    assert spoilt.false_routed > 0.01


def test_too_few_negatives_give_no_threshold() -> None:
    data = world(queries=60)
    routing = fit_routing(data.query_vectors, data.groups, data.folds, away(299))
    assert routing.threshold is None
    assert "299" in routing.reason
    assert routing.routed is routing.false_routed is routing.false_by_cosine is None
    assert routing.prototypes is not None


def test_too_few_groups_give_no_prototypes() -> None:
    """Four questions, asked however often, would be revealed by their centre."""
    data = world(queries=40)
    routing = fit_routing(data.query_vectors, np.arange(40) % 4, np.arange(40) % 4, away(400))
    assert routing.prototypes is None
    assert routing.threshold is None
    assert "fewer than 5" in routing.reason


def test_five_groups_stand_behind_each_prototype() -> None:
    data = world(queries=200)
    prototypes = fit_prototypes(data.query_vectors, data.groups, 64)
    assert prototypes is not None
    nearest = (unit(data.query_vectors) @ prototypes.T).argmax(axis=1)
    assert np.bincount(nearest, minlength=len(prototypes)).min() >= 5
    assert 4 <= len(prototypes) <= 40
    np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, atol=1e-5)


def test_repetition_weighs_nothing() -> None:
    """A group of a hundred near-duplicates pulls no harder than one query."""
    data = world(queries=50)
    repeated = np.concatenate([data.query_vectors, np.repeat(data.query_vectors[:1], 100, axis=0)])
    groups = np.concatenate([data.groups, np.repeat(data.groups[:1], 100)])
    one, two = (
        fit_prototypes(vectors, ids, 4)
        for vectors, ids in ((data.query_vectors, data.groups), (repeated, groups))
    )
    assert one is not None
    assert two is not None
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_the_description_is_one_more_prototype() -> None:
    data = world(queries=50)
    words = np.ones(DIM)
    prototypes = fit_prototypes(data.query_vectors, data.groups, 4, description=words)
    assert prototypes is not None
    np.testing.assert_allclose(prototypes[-1], unit(words[None])[0], atol=1e-6)


def test_the_same_seed_gives_the_same_routing() -> None:
    data = world(queries=100, noise=0.2)
    one, two = (
        fit_routing(data.query_vectors, data.groups, data.folds, away(400)) for _ in range(2)
    )
    assert one.threshold == two.threshold
    assert np.array_equal(one.kept, two.kept)


def test_bad_input_is_refused() -> None:
    data = world(queries=10)
    with pytest.raises(ConfigError, match="differ"):
        fit_routing(data.query_vectors, [1], data.folds, away(400))
    with pytest.raises(ConfigError, match="limit"):
        fit_routing(data.query_vectors, data.groups, data.folds, away(400), limit=0)


def test_the_background_is_large_and_varied() -> None:
    """At least 3,200 inputs, no two alike, of many openings and lengths."""
    inputs = background_questions()
    assert len(inputs) >= 3200
    assert len({" ".join(re.findall(r"\w+", text.casefold())) for text in inputs}) == len(inputs)
    openings = {" ".join(text.casefold().split()[:3]) for text in inputs}
    assert len(openings) > 2000
    assert all(text.isascii() and 1 < len(text) < 160 and text == text.strip() for text in inputs)
    words = np.array([len(text.split()) for text in inputs])
    assert (words <= 3).mean() > 0.1
    assert (words >= 12).mean() > 0.08
    assert background_digest().startswith("sha256:")


def test_the_background_is_not_of_questions_only() -> None:
    """At least two in five neither open as a question does nor end in a question mark."""
    asking = re.compile(
        r"(at what|how|what|which|who|whom|whose|when|where|why|am|are|is|was|were|do|does|did|can|"
        r"could|shall|should|will|would|may|must|has|have|had)\b",
        re.IGNORECASE,
    )
    inputs = background_questions()
    others = [text for text in inputs if not text.endswith("?") and not asking.match(text)]
    assert len(others) >= 0.4 * len(inputs)
    complaints = [text for text in others if re.search(r"\b(I|my|we|our)\b", text, re.IGNORECASE)]
    assert len(complaints) >= 250


def test_allowed_negatives_leave_no_doubt() -> None:
    """So few that a share above the limit would hardly ever show so few (Clopper and Pearson)."""
    assert allowed_of(150, 0.01) == 0
    assert allowed_of(629, 0.01) == 2  # 1 - beta.cdf(0.01, 3, 627) is 0.047; of three it is 0.12
    assert allowed_of(5000, 0.01) == 38
    assert all(allowed_of(count, 0.01) <= count / 100 for count in (300, 1000, 3000))


def test_a_boundary_tells_apart_what_the_cosine_cannot() -> None:
    """Two domains in the same direction from everything, a little apart along another one."""
    generator = np.random.default_rng(3)
    middle = generator.normal(size=DIM)
    middle[0] = 0.0

    def drawn(count: int, offset: float) -> np.ndarray:
        spread = 0.5 * generator.normal(size=(count, DIM)) * np.linalg.norm(middle) / DIM**0.5
        spread[:, 0] = offset + 0.1 * generator.normal(size=count)
        return unit(middle + spread)

    own, near = drawn(300, 1.0), drawn(600, -1.0)
    negatives = np.concatenate([away(600), near])
    routing = fit_routing(own, np.arange(300), np.arange(300) % 5, negatives)
    assert routing.threshold is not None
    assert routing.false_routed is not None
    assert routing.false_routed <= 0.01
    later, others = drawn(300, 1.0), drawn(2000, -1.0)

    def routed(vectors: np.ndarray) -> np.ndarray:
        passed = routing_scores(vectors, routing.prototypes) >= routing.threshold
        return passed & sides(vectors, routing.boundary)

    assert routed(others).mean() <= 0.015
    # The best that a cosine could do that knew all the others.
    sorted_scores = np.sort(routing_scores(others, routing.prototypes))
    by_cosine = routing_scores(later, routing.prototypes) >= sorted_scores[-20]
    assert routed(later).mean() > by_cosine.mean() + 0.1
