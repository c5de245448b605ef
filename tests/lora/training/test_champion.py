"""What is served now is judged as it is served, and never by a model that saw the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lora.adapter import HEAD, Adapter
from lora.card import BaseModel, LoRACard
from lora.head import bend
from lora.training.champion import (
    Champion,
    body_vectors,
    champion_vectors,
    identity_head,
    judged_fairly,
    pack_groups,
    routes,
    unpack_groups,
)
from lora.training.errors import ConfigError
from lora.training.gate import Arena
from tests.lora.training.synthetic import DIM, world


def head(seed: int) -> Adapter:
    generator = np.random.default_rng(seed)
    a, b = (generator.normal(size=shape).astype(np.float32) for shape in ((DIM, 2), (2, DIM)))
    return Adapter(a, b, 2, 2.0)


def card(adapter: Adapter, **more: object) -> LoRACard:
    return LoRACard(
        name="skill",
        base_model=BaseModel("model", "0" * 64),
        dim=DIM,
        modules={HEAD: adapter},
        **more,  # type: ignore[arg-type]
    )


def test_without_a_champion_the_base_is_served() -> None:
    data = world(queries=30)
    arena = Arena(data)
    np.testing.assert_array_equal(champion_vectors(data, arena, None), data.query_vectors)


def test_old_feedback_is_ranked_by_fold_models_and_new_by_the_card() -> None:
    """The groups that a fold model was kept away from are its own; all others are newer."""
    data = world(queries=50)
    arena = Arena(data)
    old = data.folds == 1
    old[np.flatnonzero(old)[-1]] = False  # this one came later
    folds = {1: card(head(1), extra=pack_groups(data.groups[old].tolist()))}
    served = champion_vectors(data, arena, Champion(card(head(0)), folds))
    np.testing.assert_allclose(served[old], bend(data.query_vectors[old], [head(1)]))
    np.testing.assert_allclose(served[~old], bend(data.query_vectors[~old], [head(0)]))


def test_what_the_threshold_would_not_route_stays_with_the_base() -> None:
    data = world(queries=50)
    prototypes = np.ascontiguousarray(data.query_vectors[:1])
    champion = card(head(0), prototypes=prototypes, threshold=0.5)
    routed = routes(champion, data.query_vectors)
    assert 0 < routed.sum() < 50
    served = champion_vectors(data, Arena(data), Champion(champion))
    np.testing.assert_array_equal(served[~routed], data.query_vectors[~routed])
    assert not np.allclose(served[routed], data.query_vectors[routed], atol=1e-3)


def test_named_use_only_counts_as_applied_to_all() -> None:
    champion = card(head(0), prototypes=np.eye(DIM, dtype=np.float32)[:1], threshold=None)
    assert routes(champion, world(queries=20).query_vectors).all()


def test_a_body_is_applied_by_the_encoder_that_is_given() -> None:
    """With the texts of the very rows, and the card whose turn it is."""
    data = world(queries=20)
    deep = replace(card(head(0)), modules={"layer.0.query": head(1)}, target_modules=())
    seen: list[str] = []

    def encode(texts: Sequence[str], asked: LoRACard) -> np.ndarray:
        assert asked is deep
        seen.extend(texts)
        return np.full((len(texts), DIM), 0.5, np.float32)

    served = champion_vectors(data, Arena(data), Champion(deep), encode)
    assert seen == list(data.queries)
    assert (served == 0.5).all()
    with pytest.raises(ConfigError, match="has a body"):
        champion_vectors(data, Arena(data), Champion(deep))


def test_a_champion_is_not_judged_on_what_it_was_trained_on() -> None:
    """Queries of a fold without a fold model count only where they are newer than the version."""
    data = world(queries=50)
    arena = Arena(data)
    folds = {1: card(head(1), extra=pack_groups(data.groups[data.folds == 1].tolist()))}
    unknown = Champion(card(head(0)), folds)
    assert judged_fairly(arena, unknown).all()
    assert judged_fairly(arena, None).all()
    known = replace(unknown, seen=data.groups[:40])
    fair = judged_fairly(arena, known)
    assert fair.tolist() == ((data.folds == 1) | (np.arange(50) >= 40)).tolist()


def test_a_head_is_trained_upon_bodies_that_have_not_seen_its_queries() -> None:
    """Each old query is encoded by its own fold's body, without any head."""
    data = world(queries=30)
    own = data.folds == 1
    deep, fold = (
        replace(card(head(n)), modules={"layer.0.query": head(n), HEAD: head(9)}, target_modules=())
        for n in (0, 1)
    )
    fold = replace(fold, extra=pack_groups(data.groups[own].tolist()))

    def encode(texts: Sequence[str], asked: LoRACard) -> np.ndarray:
        assert asked.head is None
        number = 1.0 if asked.extra else 2.0
        return np.full((len(texts), DIM), number, np.float32)

    made = body_vectors(data, Champion(deep, {1: fold}), encode)
    assert (made[own] == 1.0).all()
    assert (made[~own] == 2.0).all()


def test_groups_survive_a_card_whatever_their_number() -> None:
    groups = [3, 2**62, *range(10, 5000)]
    extra = pack_groups(groups)
    assert unpack_groups(card(head(0), extra=extra).extra).tolist() == sorted(groups)
    assert unpack_groups({}).tolist() == []
    with pytest.raises(ConfigError, match="not readable"):
        unpack_groups({"groups.0": "not base64!"})


def test_the_identity_head_changes_nothing() -> None:
    vectors = world(queries=5).query_vectors
    np.testing.assert_allclose(bend(vectors, [identity_head(DIM)]), vectors, atol=1e-6)
