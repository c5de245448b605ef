"""Experience and events made by hand; vectors are those of the fake fleet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from lora.training.dataset import TrainingSet
from lora.training.folds import fold_of, group_of
from schemas import (
    Event,
    FeedbackJudged,
    LearningBatchQueued,
    LearningEvent,
    TrainingRequested,
)
from services.distiller.experience import Experience, Query, key_of
from services.distiller.skill_distiller import Distilled, SkillDistiller, Vectors
from services.distiller.teacher import Contribution
from services.runtime.settings import DistillerSettings
from tests.services.factory.fakes import Stage, vector

SPECIES = ("heron", "thrush", "wren", "crane", "stork", "finch", "robin", "eagle")

Said = Mapping[str, Mapping[str, float]]
"""Of each query, passages with 1 (relevant) or 0."""


def experience(said: Said) -> Experience:
    """Each query is a group of its own."""
    passages = {key_of(text): text for labels in said.values() for text in labels}
    queries = [
        Query(
            text,
            group_of(text),
            fold_of(group_of(text)),
            {key_of(passage): value for passage, value in labels.items()},
        )
        for text, labels in said.items()
    ]
    return Experience(tuple(queries), passages)


def distilled(
    said: Said, *lessons: Contribution, rules: DistillerSettings | None = None
) -> Distilled:
    """What comes of it and of lessons by the teachers `one`, `two`, …"""
    taught = dict(zip(("one", "two"), lessons, strict=False))
    known, distiller = experience(said), SkillDistiller(rules or DistillerSettings())
    queries, passages = distiller.needed(known, taught)
    vectors = Vectors({q: vector(q) for q in queries}, {p: vector(p) for p in passages})
    return distiller.distill(known, taught, vectors, batch=set(list(said)[:1]))


def labels_of(data: TrainingSet) -> dict[tuple[str, str], tuple[float, str]]:
    """Value and source by query and passage."""
    return {
        (data.queries[query], data.passages[passage]): (round(value, 6), source)
        for query, passage, value, source in zip(
            data.label_query.tolist(),
            data.label_passage.tolist(),
            data.label_value.tolist(),
            data.label_source,
            strict=True,
        )
    }


def dropped(data: TrainingSet) -> dict[str, int]:
    """Pairs of teachers that were dropped, by why."""
    found = {
        key.removeprefix("dropped."): int(count)
        for key, count in data.metadata.items()
        if key.startswith("dropped.") and key != "dropped.without_relevant"
    }
    return {why: count for why, count in found.items() if count}


def query(number: int) -> str:
    return f"what does the {SPECIES[number % 8]} eat at hour {number}"


def judged(number: int, domain: str = "birds") -> Event[FeedbackJudged]:
    data = FeedbackJudged(
        feedback_id=f"f{number}",
        query=query(number),
        relevant=(f"{SPECIES[number % 8]} food",),
        irrelevant=(f"{SPECIES[(number + 1) % 8]} food",),
        domain=domain,
        served=(),
        rouge_score=0.5,
        entropy_delta=0.0,
        margin=-0.1,
    )
    return Event(data=data, source="/dissonance_monitor/1", id=f"j{domain}{number}")


def batch(
    name: str,
    numbers: range,
    domain: str = "birds",
    *,
    positives: bool = True,
    reason: str = "contradiction",
) -> Event[LearningBatchQueued]:
    events = []
    for number in numbers:
        data = judged(number, domain).data
        events.append(
            LearningEvent(
                feedback_id=data.feedback_id,
                prompt=data.query,
                rouge_score=0.5,
                entropy_delta=0.0,
                is_breakthrough=False,
                timestamp=datetime(2024, 5, 1, tzinfo=UTC),
                reason=reason,
                margin=-0.1,
                positives=data.relevant if positives else (),
                negatives=data.irrelevant,
                domain=domain,
            )
        )
    queued = LearningBatchQueued(batch_id=name, domain=domain, events=tuple(events))
    return Event(data=queued, source="/dissonance_monitor/1", id=name)


def dataset(on: Stage, task: TrainingRequested) -> TrainingSet:
    file = on.state.datasets / f"{task.dataset.digest.removeprefix('sha256:')}.parquet"
    return TrainingSet.read(file, task.dataset.digest)
