"""When a card was there, and what of that the training did not take."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.installation.__main__ import main, options_of, report_of
from benchmarks.installation.lessons import lessons_of
from benchmarks.installation.timeline import Timeline
from demo.domain import Pair
from schemas import (
    BaseModelRef,
    DatasetRef,
    Event,
    LearningBatchQueued,
    LearningEvent,
    SkillCard,
    SkillInstalled,
    SkillPublished,
    TrainingRejected,
    TrainingRequested,
)

DIGEST = "sha256:" + "a" * 64
MODEL = BaseModelRef(id="m", sha256="0" * 64)


def at(seconds: float, data: Any) -> Event[Any]:
    return Event(data=data, source="/test/1", time=datetime.fromtimestamp(seconds, UTC))


def clash(domain: str = "law") -> LearningEvent:
    return LearningEvent(
        prompt="q",
        rouge_score=0.0,
        entropy_delta=0.0,
        is_breakthrough=False,
        timestamp=datetime.fromtimestamp(0, UTC),
        reason="contradiction",
        positives=("p",),
        negatives=(),
        domain=domain,
    )


def requested(task: str, *batches: str) -> TrainingRequested:
    return TrainingRequested(
        task_id=task,
        skill="law",
        domain="law",
        dataset=DatasetRef(digest=DIGEST, rows=2),
        base_model=MODEL,
        batch_ids=batches,
    )


def card(digest: str = DIGEST) -> SkillCard:
    return SkillCard(
        name="law",
        version=1,
        digest=digest,
        bytes=1,
        rank=1,
        alpha=1.0,
        target_modules=("embedding",),
        base_model=MODEL,
        applies_to=("query",),
        description="",
        prototypes="",
        threshold=None,
        metrics={},
        created="2026-01-01T00:00:00Z",
        parents=(),
    )


def timeline() -> Timeline:
    found = Timeline("law", 2)
    for event in (
        at(1.0, clash()),
        at(1.1, clash("medicine")),
        at(2.0, clash()),
        at(2.1, LearningBatchQueued(batch_id="b", domain="law", events=(clash(), clash()))),
        at(2.5, requested("t", "b")),
        at(9.0, SkillPublished(card=card(), origin="here", task_id="t", seconds=6.0)),
        at(9.1, SkillInstalled(card=card("sha256:" + "b" * 64))),
    ):
        found.take(event)
        assert not found.complete
    found.take(at(9.2, SkillInstalled(card=card())))
    found.answered = 9.25
    return found


def test_what_waits_is_all_but_the_training() -> None:
    found = timeline()
    assert found.complete
    assert not found.over
    assert found.beside == pytest.approx(1.25)
    assert sum(found.steps().values()) == pytest.approx(found.beside)
    assert found.steps()["trained"] == pytest.approx(0.5)


def test_only_the_refusal_of_the_newest_task_ends_the_wait() -> None:
    found = Timeline("law", 1)
    found.take(at(2.1, LearningBatchQueued(batch_id="b", domain="law", events=(clash(),))))
    found.take(at(2.5, requested("old", "b")))
    found.take(at(2.6, requested("new")))
    told = {"skill": "law", "reason": "superseded", "metrics": {}}
    found.take(at(3.0, TrainingRejected(task_id="old", **told)))
    assert not found.over
    found.take(at(3.0, TrainingRejected(task_id="new", **told)))
    assert found.over


def test_the_report_says_whether_the_promise_holds() -> None:
    given = options_of(["--pieces", "16", "--rounds", "1"])
    found = report_of([timeline()], given, 0.0).found()
    (promise,) = found["comparisons"]
    assert promise["met"] is False
    assert promise["ratio"] == pytest.approx(1.25)
    assert found["name"] == "installation"
    with pytest.raises(SystemExit) as ended:
        main(["--pieces", "17"])
    assert ended.value.code == 2


def test_lessons_are_sentences_and_the_modules_they_are_from() -> None:
    names = ["json.dumps", "json.decoder.JSONDecoder.decode", "os.path.join"]
    pairs = [Pair(name, f"About {name}.", f"{name}()") for name in names]
    found = lessons_of(pairs)
    assert len(found.queries) == len(found.own) == 3
    assert found.passages[found.own[1]] == "the module json decoder"
    drawn = found.drawn([0, 2], 2, seed=1)
    assert sorted(drawn.queries) == ["About json.dumps.", "About os.path.join."]
    with pytest.raises(ValueError, match="3 pieces"):
        found.drawn([0, 2], 3, seed=1)
