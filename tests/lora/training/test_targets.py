"""Soft labels: whose word counts, what they are drawn to, and what they are worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.card import BaseModel
from lora.training.candidate import CandidateRequest, head_candidate
from lora.training.dataset import FEEDBACK, Label, TrainingSet
from lora.training.errors import ConfigError, NothingToLearn
from lora.training.gate import Arena, mrr
from lora.training.head import HeadConfig, HeadProblem, fit_head
from lora.training.sweep import SweepConfig, train_head
from lora.training.targets import relevance, target_distributions
from tests.lora.training.synthetic import away, world

TEACHER = "teacher.grade"


def few(labels: list[Label], queries: int = 2, passages: int = 3) -> TrainingSet:
    """Orthogonal queries and passages with these labels."""
    return TrainingSet.build(
        queries=[f"q{number}" for number in range(queries)],
        query_vectors=np.eye(queries, 8),
        groups=np.arange(queries),
        folds=np.arange(queries) % 5,
        passages=[f"p{number}" for number in range(passages)],
        passage_vectors=np.eye(passages, 8)[:, ::-1],
        labels=labels,
    )


def with_labels(data: TrainingSet, labels: list[Label], keep: np.ndarray) -> TrainingSet:
    """The labels of the queries in `keep` stay; these are added."""
    kept = [
        (int(q), int(p), float(v), s)
        for q, p, v, s in zip(
            data.label_query, data.label_passage, data.label_value, data.label_source, strict=True
        )
        if keep[q]
    ]
    listed = kept + labels
    return replace(
        data,
        label_query=np.array([label[0] for label in listed]),
        label_passage=np.array([label[1] for label in listed]),
        label_value=np.array([label[2] for label in listed]),
        label_source=tuple(label[3] for label in listed),
    )


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.integers(0, 2),
            st.sampled_from([0.0, 0.25, 0.5, 1.0]),
            st.sampled_from([FEEDBACK, TEACHER, "other"]),
        ),
        max_size=14,
    )
)
def test_a_persons_word_wins_and_teachers_are_averaged_among_themselves(labels) -> None:
    found = relevance(few(labels))
    made = {(q, p): v for q, p, v in zip(found.query, found.passage, found.value, strict=True)}
    for pair in {(q, p) for q, p, _, _ in labels}:
        said = [v for q, p, v, s in labels if (q, p) == pair and s == FEEDBACK]
        said = said or [v for q, p, v, _ in labels if (q, p) == pair]
        assert made[pair] == pytest.approx(np.mean(said))
    assert len(made) == len({(q, p) for q, p, _, _ in labels})


@given(st.integers(0, 2**16), st.sampled_from([0.25, 1.0, 3.0]))
def test_rows_are_distributions_and_one_relevant_passage_gets_all(seed, temperature) -> None:
    generator = np.random.default_rng(seed)
    labels = [(0, 1, 1.0, FEEDBACK), (0, 0, 0.0, FEEDBACK)]
    labels += [(1, p, float(v), TEACHER) for p, v in enumerate(generator.random(3))]
    data = few(labels)
    made = target_distributions(data, relevance(data), np.arange(2), np.arange(3), temperature)
    assert made.shares.sum(axis=1) == pytest.approx(1.0)
    assert made.shares[0].tolist() == [0.0, 1.0, 0.0]
    assert (np.argsort(made.shares[1]) == np.argsort(data.label_value[2:])).all()
    assert made.sureness[1] == data.label_value[2:].max()


def test_a_low_temperature_sharpens_and_a_high_one_flattens() -> None:
    data = few([(0, 0, 1.0, TEACHER), (0, 1, 0.5, TEACHER), (0, 2, 0.0, TEACHER)])
    pairs, rows = relevance(data), np.zeros(1, np.int64)
    shares = [
        target_distributions(data, pairs, rows, np.arange(3), temperature).shares[0].tolist()
        for temperature in (0.5, 1.0, 2.0)
    ]
    assert shares[0] == pytest.approx([0.8, 0.2, 0.0])
    assert shares[1] == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert shares[2][1] > shares[1][1]
    assert shares[2][2] == 0.0
    with pytest.raises(ConfigError, match="temperature of targets"):
        target_distributions(data, pairs, rows, np.arange(3), 0.0)


def test_what_is_irrelevant_alone_teaches_nothing() -> None:
    """Neither a query with irrelevant labels only, nor one whose relevant label a person denied."""
    labels = [(0, 0, 1.0, FEEDBACK), (1, 0, 0.0, FEEDBACK), (1, 1, 0.0, TEACHER)]
    assert HeadProblem(few(labels)).rows.tolist() == [0]
    denied = [*labels, (1, 2, 1.0, TEACHER), (1, 2, 0.0, FEEDBACK)]
    problem = HeadProblem(few(denied))
    assert problem.rows.tolist() == [0]
    assert problem.targets.sum(axis=1) == pytest.approx(1.0)
    with pytest.raises(NothingToLearn):
        HeadProblem(few([(0, 0, 0.0, FEEDBACK)]))


def test_weights_and_sureness_count_and_what_no_person_gave_can_count_for_less() -> None:
    """A query of twice the weight is the same as the query twice."""
    data = world(queries=40)
    twice = np.ones(40)
    twice[:10] = 2.0
    doubled = TrainingSet.build(
        queries=[*data.queries, *(f"{text} again" for text in data.queries[:10])],
        query_vectors=np.concatenate([data.query_vectors, data.query_vectors[:10]]),
        groups=np.concatenate([data.groups, data.groups[:10]]),
        folds=np.concatenate([data.folds, data.folds[:10]]),
        passages=data.passages,
        passage_vectors=data.passage_vectors,
        labels=[
            (int(q) + shift, int(p), float(v), FEEDBACK)
            for shift, below in ((0, 40), (40, 10))
            for q, p, v in zip(data.label_query, data.label_passage, data.label_value, strict=True)
            if q < below
        ],
    )
    still = HeadConfig(dropout=0.0, self_weight=0.0)
    one, two = (
        fit_head(HeadProblem(each), still)[45].a for each in (replace(data, weights=twice), doubled)
    )
    np.testing.assert_allclose(one, two, atol=1e-4)

    unsure = few([(0, 0, 1.0, FEEDBACK), (1, 1, 0.4, TEACHER)])
    problem = HeadProblem(unsure)
    assert problem.weights.tolist() == pytest.approx([1.0, 0.4])
    assert problem.taught.tolist() == [False, True]
    silent = HeadConfig(taught_weight=0.0, dropout=0.0, self_weight=0.0)
    alone = HeadProblem(few([(0, 0, 1.0, FEEDBACK)]))
    np.testing.assert_allclose(
        fit_head(problem, silent)[45].a, fit_head(alone, silent)[45].a, atol=1e-6
    )


def test_a_batch_of_what_counts_for_nothing_spoils_nothing() -> None:
    data = world(queries=60)
    real = np.arange(60) < 2
    problem = HeadProblem(with_labels(data, [(row, 0, 1.0, TEACHER) for row in range(2, 60)], real))
    silent = HeadConfig(taught_weight=0.0, self_weight=0.0, batch=4)
    assert np.isfinite(fit_head(problem, silent)[45].a).all()


def test_where_queries_are_too_many_peoples_stay() -> None:
    data = world(queries=60)
    real = np.arange(60) < 12
    taught = [(row, 0, 1.0, TEACHER) for row in range(12, 60)]
    problem = HeadProblem(with_labels(data, taught, real), max_queries=20)
    assert len(problem.rows) == 20
    assert (~problem.taught).sum() == 12


def _graded(data: TrainingSet, real: np.ndarray) -> list[Label]:
    """A teacher's grades of five passages: by how near each is to the right one."""
    near = data.passage_vectors @ data.passage_vectors.T
    right = {
        int(query): int(passage)
        for query, passage, value in zip(
            data.label_query, data.label_passage, data.label_value, strict=True
        )
        if value == 1
    }
    return [
        (query, int(passage), float(np.clip(near[wanted][passage], 0, 1) ** 2), TEACHER)
        for query, wanted in right.items()
        if not real[query]
        for passage in np.argsort(-near[wanted])[:5]
    ]


def test_soft_labels_that_point_at_the_truth_help_where_people_said_little() -> None:
    data, unseen = world(queries=200), world(queries=200, seed=1)
    real = np.arange(200) < 30
    alone = with_labels(data, [], real)
    taught = with_labels(data, _graded(data, real), real)
    arena = Arena(unseen)
    scores = [
        mrr(arena.ranks(fit_head(HeadProblem(each), HeadConfig())[45].apply(unseen.query_vectors)))
        for each in (alone, taught)
    ]
    assert scores[1] > scores[0] + 0.05


@pytest.mark.parametrize("seed", range(3))
def test_a_teacher_that_lies_is_refused_by_the_gate(seed: int) -> None:
    """Where the base model is right, hundreds of wrong questions cannot pass as a gain."""
    data = world(queries=300, turned=False, seed=seed)
    real = np.arange(300) < 60
    generator = np.random.default_rng(seed)
    lies = [(row, int(generator.integers(12)), 1.0, TEACHER) for row in range(60, 300)]
    poisoned = with_labels(data, lies, real)
    candidate = head_candidate(
        CandidateRequest(
            data=poisoned,
            skill="lies",
            version=1,
            base_model=BaseModel("model", "0" * 64),
            data_digest="sha256:" + "0" * 64,
            negatives=away(),
            time_budget_s=30.0,
        )
    )
    assert not candidate.accepted
    assert candidate.metrics.get("groups", 60) == 60


def test_the_sweep_doubts_a_teacher_whose_answers_do_not_help_people() -> None:
    """On people's own queries an honest teacher counts in full, and a lying one for less."""
    data = world(queries=240)
    real = np.arange(240) < 100
    generator = np.random.default_rng(3)
    honest = replace(
        data,
        label_source=tuple(FEEDBACK if real[q] else TEACHER for q in data.label_query),
    )
    ring = np.roll(np.arange(12), 1)
    lies = [(row, int(ring[generator.integers(12)]), 1.0, TEACHER) for row in range(100, 240)]
    lying = with_labels(data, lies, real)
    chosen = [
        train_head(each, Arena(each), SweepConfig(time_budget_s=600.0)).choice.config.taught_weight
        for each in (honest, lying)
    ]
    assert chosen == [1.0, 0.2]
