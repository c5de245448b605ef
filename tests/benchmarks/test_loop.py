"""The loop as it is watched: what counts as gathered, as decided, and for which depth."""

from typing import Any

import pytest

from benchmarks.kit.loop import Loop, depth_of
from schemas import (
    BaseModelRef,
    DatasetRef,
    Event,
    FeedbackJudged,
    LearningBatchQueued,
    LearningBatchRejected,
    LearningEvent,
    SkillCard,
    SkillInstalled,
    SkillPublished,
    SkillRejected,
    TrainingRejected,
    TrainingRequested,
    now,
)

MODEL = BaseModelRef(id="m", sha256="0" * 64)
DIGEST = "sha256:" + "1" * 64


def card(version: int, *targets: str, name: str = "banking") -> SkillCard:
    return SkillCard(
        name=name,
        version=version,
        digest=f"sha256:{version:064d}",
        bytes=1,
        rank=8,
        alpha=16.0,
        target_modules=targets or ("embedding",),
        base_model=MODEL,
        applies_to=("query",),
        description="",
        prototypes="",
        threshold=None,
        metrics={},
        created="2026-01-01T00:00:00Z",
        parents=(),
    )


def clash(domain: str = "banking") -> LearningEvent:
    return LearningEvent(
        prompt="q",
        rouge_score=0.0,
        entropy_delta=0.0,
        is_breakthrough=False,
        timestamp=now(),
        reason="contradiction",
        positives=("p",),
        negatives=(),
        domain=domain,
    )


def judged(domain: str = "banking") -> FeedbackJudged:
    return FeedbackJudged(
        feedback_id="f",
        query="q",
        relevant=("p",),
        irrelevant=(),
        domain=domain,
        served=(),
        rouge_score=0.0,
        entropy_delta=0.0,
    )


def asked(task: str, *batches: str) -> TrainingRequested:
    return TrainingRequested(
        task_id=task,
        skill="banking",
        domain="banking",
        dataset=DatasetRef(digest=DIGEST, rows=9),
        base_model=MODEL,
        batch_ids=batches,
    )


def refused(task: str, reason: str) -> TrainingRejected:
    return TrainingRejected(task_id=task, skill="banking", reason=reason, metrics={})


@pytest.fixture
def loop() -> Loop:
    return Loop(None, "banking")  # type: ignore[arg-type]  # nothing is listened to here


def tell(loop: Loop, *told: Any, at: float = 0.0) -> None:
    for data in told:
        loop.take(Event(data=data, source="/test/1"), at)


def batch(name: str, clashes: int = 4) -> LearningBatchQueued:
    return LearningBatchQueued(
        batch_id=name, domain="banking", events=tuple(clash() for _ in range(clashes))
    )


def test_other_domains_are_not_counted(loop: Loop) -> None:
    tell(loop, judged("elsewhere"), clash("elsewhere"), judged())
    assert (loop.judged, loop.clashes) == (1, 0)


def test_nothing_is_gathered_while_clashes_wait_for_a_batch_or_a_batch_for_a_task(
    loop: Loop,
) -> None:
    tell(loop, *[judged()] * 5, *[clash()] * 4)
    assert not loop.gathered(5)
    tell(loop, batch("b1"))
    assert not loop.gathered(5)
    tell(loop, asked("t1", "b1"))
    assert loop.gathered(5)
    assert not loop.gathered(6)


def test_fewer_clashes_than_a_batch_needs_keep_nobody_waiting(loop: Loop) -> None:
    tell(loop, judged(), clash(), clash(), clash())
    assert loop.decided(1, "head")
    assert loop.last_task() is None


def test_a_batch_of_which_nothing_remained_is_answered(loop: Loop) -> None:
    tell(loop, judged(), *[clash()] * 4, batch("b1"))
    tell(loop, LearningBatchRejected(batch_id="b1", reason="nothing learnable"))
    assert loop.decided(1, "body")


def test_a_refusal_is_of_the_depth_that_it_names(loop: Loop) -> None:
    tell(loop, judged(), *[clash()] * 4, batch("b1"), asked("t1", "b1"))
    tell(loop, refused("t1", "head: gained nothing"), at=3.0)
    assert loop.decided(1, "head")
    assert not loop.decided(1, "body")
    tell(loop, refused("t1", "body: gained nothing"), at=9.0)

    assert loop.decided(1, "body")
    assert [(it.depth, it.at) for it in loop.refusals] == [("head", 3.0), ("body", 9.0)]


def test_superseded_tasks_are_no_verdicts_and_the_newest_lives_on(loop: Loop) -> None:
    tell(loop, judged(), batch("b1"), asked("t1", "b1"), at=1.0)
    tell(loop, batch("b2"), asked("t2", "b2"), at=2.0)
    tell(loop, *[clash()] * 8, refused("t1", "superseded by a newer one"))
    last = loop.last_task()

    assert last is not None
    assert last.task_id == "t2"
    assert not loop.refusals
    assert not loop.decided(1, "head")


def test_a_version_decides_when_it_is_installed_not_when_it_is_published(loop: Loop) -> None:
    tell(loop, judged(), *[clash()] * 4, batch("b1"), asked("t1", "b1"))
    head, body = card(1), card(2, "query", "value", "embedding")
    tell(loop, SkillPublished(card=head, origin="here", task_id="t1"), at=4.0)
    assert not loop.decided(1, "head")
    tell(loop, SkillInstalled(card=head), SkillInstalled(card=head), at=5.0)
    assert loop.decided(1, "head")
    tell(loop, SkillPublished(card=body, origin="here", task_id="t1"), SkillInstalled(card=body))

    assert loop.decided(1, "body")
    assert [(it.name, it.depth) for it in loop.versions] == [
        ("banking@1", "head"),
        ("banking@2", "body"),
    ]


def test_depths_are_told_by_the_task_where_the_card_does_not_show_them(loop: Loop) -> None:
    """A head upon an earlier body; and a body of which the head alone was best."""
    tell(loop, judged(), *[clash()] * 4, batch("b1"), asked("t1", "b1"))
    head, body = card(3, "query", "embedding"), card(4)
    tell(loop, SkillPublished(card=head, origin="here", task_id="t1"), SkillInstalled(card=head))
    assert loop.decided(1, "head")
    assert not loop.decided(1, "body")
    tell(loop, SkillPublished(card=body, origin="here", task_id="t1"), SkillInstalled(card=body))
    assert loop.decided(1, "body")
    assert [it.depth for it in loop.versions] == ["head", "body"]


def test_a_card_that_the_manager_rejects_is_a_refusal(loop: Loop) -> None:
    tell(loop, judged(), *[clash()] * 4, batch("b1"), asked("t1", "b1"))
    tell(loop, SkillPublished(card=card(1), origin="here", task_id="t1"))
    tell(loop, SkillRejected(name="banking", digest=card(1).digest, reason="does not load"))

    assert loop.decided(1, "head")
    assert loop.refusals[0].reason == "does not load"


def test_the_last_clash_of_a_version_is_that_of_its_own_batches(loop: Loop) -> None:
    tell(loop, clash(), at=8.0)
    tell(loop, batch("b1"), asked("t1", "b1"), at=10.0)
    tell(loop, SkillPublished(card=card(1), origin="here", task_id="t1"))
    tell(loop, SkillInstalled(card=card(1)), at=15.0)
    tell(loop, clash(), at=40.0)

    assert loop.last_clash_of(loop.versions[0]) == 8.0


def test_a_card_that_reaches_into_the_encoder_is_a_body() -> None:
    assert depth_of(card(1)) == "head"
    assert depth_of(card(1, "query", "embedding")) == "body"


async def test_waiting_for_what_never_comes_ends_in_time(loop: Loop) -> None:
    assert not await loop.until(lambda: False, 0.05)
    assert await loop.until(lambda: True, 0.0)
