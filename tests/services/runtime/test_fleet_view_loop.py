"""The learning loop as it is shown: clashes, trainings, verdicts; time passes as the test says."""

from datetime import timedelta
from typing import Any

import pytest

from schemas import DomainForgotten, FeedbackJudged
from services.runtime.fleet_view_loop import DOMAINS, LATE, QUIET, VERDICTS, Loop
from services.runtime.fleet_view_status import DomainStatus, TrainingStatus
from tests.services.runtime.fleet_view_kit import (
    MODEL,
    NOON,
    beat,
    card,
    progressed,
    published,
    rejected,
    requested,
    said,
)


def domain(loop: Loop, name: str, now: float = 0.0) -> DomainStatus:
    (found,) = (it for it in loop.snapshot(now).domains if it.domain == name)
    return found


def monitor(**counters: float) -> Any:
    return beat("dissonance_monitor", counters=dict(counters))


def hear(loop: Loop, *told: Any, now: float = 0.0) -> None:
    for place, data in enumerate(told):
        loop.hear(said(data, time=NOON + timedelta(seconds=place)), now)


def test_the_monitor_tells_how_far_each_batch_is() -> None:
    loop = Loop()
    figures = {"open:law": 11, "judged:law": 40, "clashes:law": 27, "last:law": NOON.timestamp()}
    loop.beat(monitor(batch_size=20, waiting=11, **figures), 0.0)
    assert loop.snapshot(0.0).batch_size == 20
    found = domain(loop, "law")
    assert (found.open, found.feedback, found.clashes, found.last) == (11, 40, 27, NOON)
    loop.beat(monitor(batch_size=20), 1.0)
    assert domain(loop, "law").open == 0
    assert domain(loop, "law").clashes == 27


def test_judged_feedback_is_the_last_activity() -> None:
    loop = Loop()
    judged = FeedbackJudged(
        feedback_id="f",
        query="q",
        relevant=("a",),
        irrelevant=(),
        domain="law",
        served=(),
        rouge_score=1.0,
        entropy_delta=0.0,
    )
    loop.hear(said(judged, time=NOON), 0.0)
    loop.hear(said(judged, time=NOON - timedelta(hours=1)), 0.0)
    assert domain(loop, "law").last == NOON


def test_a_training_is_shown_with_its_progress_until_its_verdict() -> None:
    loop = Loop()
    hear(loop, requested("t1", "law"), progressed("t1", 3))
    assert domain(loop, "law").training == TrainingStatus(
        task_id="t1", phase="head", step=3, steps=100, loss=0.5, depth="head"
    )
    assert loop.model == MODEL
    hear(loop, rejected("t1", "law"))
    assert domain(loop, "law").training is None


def test_the_verdict_on_a_head_does_not_end_the_body_of_the_same_task() -> None:
    loop = Loop()
    hear(loop, requested("t1", "law"), progressed("t1", 3, phase="body"), rejected("t1", "law"))
    training = domain(loop, "law").training
    assert training is not None
    assert training.depth == "body"


def test_progress_of_a_task_that_is_not_known_is_not_shown() -> None:
    loop = Loop()
    hear(loop, progressed("strange"))
    assert loop.snapshot(0.0).domains == ()


@pytest.mark.parametrize("loss", [float("nan"), float("inf")], ids=str)
def test_a_loss_that_is_no_number_is_not_shown(loss: float) -> None:
    loop = Loop()
    hear(loop, requested("t1", "law"), progressed("t1", 2), progressed("t1", 3, loss=loss))
    training = domain(loop, "law").training
    assert training is not None
    assert training.step == 2


def test_a_training_that_nobody_continues_is_over() -> None:
    loop = Loop()
    hear(loop, requested("t1", "law"), progressed("t1"), now=100.0)
    assert domain(loop, "law", 100.0 + QUIET).training is not None
    assert domain(loop, "law", 100.1 + QUIET).training is None


def test_the_factory_knows_whether_it_trains() -> None:
    loop = Loop()
    hear(loop, requested("t1", "law"), progressed("t1"), now=100.0)
    idle = beat("factory", counters={"head_running": 0, "body_running": 0})
    loop.beat(beat("factory", counters={"head_running": 1, "body_running": 0}), 150.0)
    assert domain(loop, "law", 150.0).training is not None
    loop.beat(idle, 100.0 + LATE - 0.1)  # said before the progress was
    assert domain(loop, "law", 150.0).training is not None
    loop.beat(idle, 150.0)
    assert domain(loop, "law", 150.0).training is None


def test_verdicts_stand_with_their_figures_the_newest_first() -> None:
    loop = Loop()
    hear(loop, rejected("t1", "law"), published("t2", card("law", 3)))
    first, second = domain(loop, "law").verdicts
    assert (first.published, first.version, first.depth, first.skill) == (True, 3, "head", "law")
    assert (second.published, second.version, second.reason) == (False, None, "no better")
    for verdict in (first, second):
        assert (verdict.before, verdict.after, verdict.gain) == (0.4, 0.5, 0.1)
        assert (verdict.low, verdict.high, verdict.groups) == (0.05, 0.15, 40)
    assert (second.time, first.time) == (NOON, NOON + timedelta(seconds=1))


def test_what_is_no_verdict_is_not_shown_as_one() -> None:
    loop = Loop()
    hear(loop, rejected("t1", "law", "superseded by t2"), published(None, card("brought")))
    assert [(it.domain, it.verdicts) for it in loop.snapshot(0.0).domains] == [("law", ())]


def test_figures_that_are_none_are_null() -> None:
    loop = Loop()
    metrics = {"before": float("nan"), "after": None, "gain": True, "low": float("inf")}
    hear(loop, published("t1", card("law", metrics=metrics)))
    (verdict,) = domain(loop, "law").verdicts
    assert (verdict.before, verdict.after, verdict.gain, verdict.low) == (None,) * 4
    assert (verdict.high, verdict.groups) == (None, None)


def test_what_is_forgotten_is_shown_no_more() -> None:
    loop = Loop()
    hear(loop, rejected("t1", "law"), DomainForgotten(domain="law"))
    assert loop.snapshot(0.0).domains == ()


def test_all_of_it_is_bounded() -> None:
    loop = Loop()
    hear(loop, *(rejected(f"t{number}", "law") for number in range(VERDICTS + 5)))
    assert len(domain(loop, "law").verdicts) == VERDICTS
    hear(loop, *(rejected("t", f"kind-{number}") for number in range(2 * DOMAINS)))
    hear(loop, *(requested(f"t{number}", "tax") for number in range(2000)))
    told = loop.snapshot(0.0).domains
    assert len(told) == DOMAINS
    assert [told[0].domain, told[1].domain] == ["tax", f"kind-{2 * DOMAINS - 1}"]
