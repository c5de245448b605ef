"""From feedback to a judged card: published when it helps, refused with a reason when not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lora.adapter import Adapter
from lora.card import BaseModel, LoRACard
from lora.head import bend
from lora.training.candidate import Candidate, CandidateRequest, head_candidate
from lora.training.champion import Champion, unpack_groups
from lora.training.dataset import TrainingSet
from lora.training.errors import ConfigError, NothingToLearn
from lora.training.gate import Arena, mrr
from tests.lora.training.synthetic import DIM, away, world

FAST = {"grid": [{}], "checkpoints": [10, 30], "scales": [0.5, 1.0]}


def ask(data: TrainingSet, **more: object) -> Candidate:
    given: dict[str, object] = {
        "data": data,
        "skill": "banking",
        "version": 1,
        "base_model": BaseModel("model", "0" * 64),
        "data_digest": "sha256:" + "1" * 64,
        "negatives": away(800),
        "settings": FAST,
    }
    return head_candidate(CandidateRequest(**{**given, **more}))  # type: ignore[arg-type]


def test_a_good_candidate_carries_all_that_is_known_of_it() -> None:
    data = world(queries=200, noise=0.2)
    made = ask(data, description="what people ask", parents=("sha256:" + "2" * 64,), attempts=2)
    assert made.accepted
    card = made.card
    assert card is not None
    assert card.head is not None
    assert not card.body
    assert (card.name, card.version, card.dim) == ("banking", 1, DIM)
    assert card.data_digest == "sha256:" + "1" * 64
    assert card.threshold is not None
    assert card.metrics["attempts"] == 2
    assert card.metrics["low"] > 0
    assert card.metrics["routed"] > 0.7
    assert card.metrics["false_routed"] <= 0.01
    assert set(made.folds) == set(range(5))
    for fold, model in made.folds.items():
        own = set(data.groups[data.folds == fold].tolist())
        assert set(unpack_groups(model.extra).tolist()) == own
    assert made.chosen["scale"] in (0.5, 1.0)


def test_shuffled_labels_are_refused() -> None:
    made = ask(world(queries=120, shuffled=True))
    assert not made.accepted
    assert made.reason


def test_no_change_makes_no_card() -> None:
    made = ask(world(queries=80, turned=False, noise=0.1))
    assert not made.accepted
    assert made.card is None
    assert "no change" in made.reason


def test_the_same_data_again_does_not_beat_its_own_champion() -> None:
    """A retrained copy gains nothing over the version it would replace, judged fairly."""
    data = world(queries=200)
    first = ask(data)
    assert first.card is not None
    again = ask(data, champion=Champion(first.card, first.folds), attempts=2, seed=1)
    assert not again.accepted
    assert again.metrics["before"] == pytest.approx(first.metrics["after"], abs=0.03)


def test_more_data_beats_the_version_before() -> None:
    small = world(queries=60, noise=1.2)
    first = ask(small)
    assert first.card is not None
    more, extra = world(queries=400, noise=1.2, seed=1), small
    both = TrainingSet.build(
        queries=[*extra.queries, *more.queries],
        query_vectors=np.concatenate([extra.query_vectors, more.query_vectors]),
        groups=np.concatenate([extra.groups, more.groups]),
        folds=np.concatenate([extra.folds, more.folds]),
        passages=extra.passages,
        passage_vectors=extra.passage_vectors,
        labels=[
            (int(query) + offset, int(passage), float(value), source)
            for data, offset in ((extra, 0), (more, len(extra.queries)))
            for query, passage, value, source in zip(
                data.label_query,
                data.label_passage,
                data.label_value,
                data.label_source,
                strict=True,
            )
        ],
    )
    second = ask(both, champion=Champion(first.card, first.folds), version=2)
    assert second.accepted
    later = world(queries=300, noise=1.2, seed=2)
    arena = Arena(later)
    scores = [
        mrr(arena.ranks(bend(later.query_vectors, [card.head])))
        for card in (first.card, second.card)
        if card is not None and card.head is not None
    ]
    assert scores[1] > scores[0]


def test_a_head_after_a_body_keeps_the_body() -> None:
    """The next quick version stands upon the deep one: its body, and a new head upon it."""
    data = world(queries=150)
    turn = Adapter(np.eye(DIM, 1, dtype=np.float32), np.eye(1, DIM, dtype=np.float32), 1, 1.0)
    first = ask(data)
    assert first.card is not None
    deep = replace(first.card, modules={"layer.0.query": turn}, target_modules=())
    encoded: list[str] = []

    def encode(texts: Sequence[str], card: LoRACard) -> np.ndarray:
        """A body that moves nothing: what the base model gives, with the card's head, if any."""
        encoded.extend(texts)
        place = {text: row for row, text in enumerate(data.queries)}
        rows = data.query_vectors[[place[text] for text in texts]]
        return bend(rows, [card.head] if card.head else [])

    champion = Champion(
        deep, {fold: replace(deep, extra=c.extra) for fold, c in first.folds.items()}
    )
    made = ask(data, champion=champion, encode=encode, version=2)
    assert made.accepted
    assert made.card is not None
    assert set(made.card.modules) == {"layer.0.query", "embedding"}
    assert all("layer.0.query" in fold.modules for fold in made.folds.values())
    assert set(encoded) == set(data.queries)
    with pytest.raises(ConfigError, match="has a body"):
        ask(data, champion=champion)


def test_a_fold_model_is_kept_away_only_from_what_its_body_has_not_seen_either() -> None:
    """Given a body judged on fold 0 alone: in other folds only newer queries are unseen."""
    data = world(queries=150)
    turn = Adapter(np.eye(DIM, 1, dtype=np.float32), np.eye(1, DIM, dtype=np.float32), 1, 1.0)
    first = ask(data)
    assert first.card is not None
    deep = replace(first.card, modules={"layer.0.query": turn}, target_modules=())
    held = replace(deep, extra=first.folds[0].extra)
    seen = data.groups[:120]
    made = ask(
        data,
        champion=Champion(deep, {0: held}, seen),
        encode=lambda texts, card: data.query_vectors[[data.queries.index(t) for t in texts]],
        version=2,
    )
    for fold, card in made.folds.items():
        away = set(unpack_groups(card.extra).tolist())
        of_fold = set(data.groups[data.folds == fold].tolist())
        assert away == (of_fold if fold == 0 else of_fold - set(seen.tolist()))


def test_a_champion_without_fold_models_is_judged_on_newer_feedback() -> None:
    data = world(queries=150)
    first = ask(data)
    assert first.card is not None
    champion = Champion(first.card, {}, seen=data.groups[:100])
    again = ask(data, champion=champion)
    assert again.metrics["groups"] == 50


def test_anchors_must_not_lose() -> None:
    """A trusted set on which the candidate is worse overrules the gate."""
    data = world(queries=200)
    friendly = ask(data, anchors=world(queries=60, seed=3))
    assert friendly.accepted
    assert friendly.metrics["anchors_after"] > friendly.metrics["anchors_before"]
    loyal = world(queries=60, seed=3)
    first = (loyal.query_vectors @ loyal.passage_vectors.T).argmax(axis=1)
    hostile = ask(
        data,
        anchors=TrainingSet.build(
            queries=loyal.queries,
            query_vectors=loyal.query_vectors,
            groups=loyal.groups,
            folds=loyal.folds,
            passages=loyal.passages,
            passage_vectors=loyal.passage_vectors,
            labels=[(row, int(best), 1.0, "anchor") for row, best in enumerate(first)],
        ),
    )
    assert not hostile.accepted
    assert "anchor set" in hostile.reason


def test_few_negatives_mean_named_use_only() -> None:
    made = ask(world(queries=200), negatives=np.zeros((0, DIM), np.float32))
    assert made.accepted
    assert made.card is not None
    assert made.card.threshold is None
    assert "named use only" in made.reason
    assert not {"routed", "false_routed", "false_by_cosine"} & set(made.card.metrics)


def test_no_real_feedback_is_nothing_to_learn() -> None:
    data = world(queries=10)
    taught = TrainingSet.build(
        queries=data.queries,
        query_vectors=data.query_vectors,
        groups=data.groups,
        folds=data.folds,
        passages=data.passages,
        passage_vectors=data.passage_vectors,
        labels=[(row, 0, 1.0, "openai") for row in range(10)],
    )
    with pytest.raises(NothingToLearn, match="no real feedback"):
        ask(taught)


@pytest.mark.parametrize(
    "settings", [{"typo": 1}, {"grid": [{"typo": 1}]}, {"temperature": -1}, {"scales": []}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ask(world(queries=20), settings=settings)


def test_the_temperature_of_the_configuration_reaches_the_grid() -> None:
    made = ask(world(queries=60), settings={"temperature": 0.1, "max_rank": 5})
    assert made.chosen["temperature"] in (pytest.approx(0.1), pytest.approx(0.06))
    assert made.card is None or made.card.rank == 5
