"""The judges of the fleet's torture are just: what they let pass is right, what they find is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import islice, pairwise
from types import SimpleNamespace

import numpy as np
import pytest

import bus
from schemas import (
    Event,
    FeedbackGiven,
    FeedbackJudged,
    LearningBatchQueued,
    LearningEvent,
    TrainingRejected,
    TrainingRequested,
)
from tests.torture.fleet.books import Books, faults_of, read_books
from tests.torture.fleet.domains import DOMAINS, pieces
from tests.torture.fleet.faults import name_of
from tests.torture.fleet.schedule import ACTIONS, LONGEST, MOST_ENDS, SHORTEST, TARGETS, plan
from tests.torture.fleet.tally import Request, Tally
from tests.torture.fleet.truth import Truth

# the schedule


def test_a_seed_is_a_schedule() -> None:
    assert plan(400, 60, 1) == plan(400, 60, 1)
    assert plan(400, 60, 1) != plan(400, 60, 2)


@pytest.mark.parametrize("seed", range(20))
def test_everything_is_done_to_everyone_and_nobody_is_ended_too_often(seed: int) -> None:
    faults = plan(400, 60, seed)
    assert len(faults) >= 60
    assert all(0 <= fault.at <= 400 for fault in faults)
    done = {(fault.action, fault.target) for fault in faults}
    assert done == {(action, target) for target in TARGETS for action in ACTIONS[target]}
    assert any(one.at == other.at for one, other in pairwise(faults))
    ends: dict[str, list[float]] = defaultdict(list)
    for fault in faults:
        if fault.action == "freeze":
            assert SHORTEST <= fault.seconds <= LONGEST
        else:
            ends[fault.target].append(fault.at)
    for moments in ends.values():
        for first in moments:
            assert sum(0 <= at - first < 60 for at in moments) <= MOST_ENDS


def test_processes_are_known_by_their_words() -> None:
    words = ["python", "-P", "lifeline.py", "1", "services.encoder", "--instance", "2"]
    assert name_of(words) == "encoder-2"
    assert name_of(["python", "lifeline.py", "1", "bus", "--url", "x"]) == "broker"
    assert name_of(["sh"]) == ""


# requests

ANSWERED = Request("bus auto", 60.0, 1.0, 0.0, "answered")


@pytest.mark.parametrize(
    ("request_", "broken"),
    [
        pytest.param(ANSWERED, "", id="answered"),
        pytest.param(replace(ANSWERED, wrong="it is 1 off"), "answered wrongly", id="wrong"),
        pytest.param(replace(ANSWERED, ending="deadline", deadline=3.0), "", id="hurried"),
        pytest.param(replace(ANSWERED, ending="timeout"), "was not answered", id="patient"),
        pytest.param(replace(ANSWERED, ending="timeout", excused=True), "", id="its door was shut"),
        pytest.param(replace(ANSWERED, ending="internal: x"), "internal: x", id="failed"),
        pytest.param(replace(ANSWERED, took=62.0), "2.0 s after", id="late"),
        pytest.param(replace(ANSWERED, took=62.0, lag=1.5), "", id="late by our own fault"),
    ],
)
def test_a_request_is_judged(request_: Request, broken: str) -> None:
    tally = Tally()
    tally.take(request_)
    assert len(tally.broken) == bool(broken)
    assert all(broken in sentence for sentence in tally.broken)


def test_a_vector_is_held_against_the_one_before() -> None:
    models = SimpleNamespace(named={})
    truth = Truth(("a", "b"), models)  # type: ignore[arg-type]
    one = np.ones((1, 4), np.float32)
    assert not truth.check(["a"], [()], one)
    assert not truth.check(["a"], [()], one + np.float32(1e-6))
    assert not truth.check(["a"], [("card",)], one + 1), "another card is another vector"
    assert "'a' by the base model is 0.001 off" in truth.check(["a"], [()], one + np.float32(1e-3))
    assert not truth.check(["unknown"], [()], one * 7)
    assert "2 texts" in truth.check(["a", "b"], [(), ()], one)
    assert "finite" in truth.check(["a"], [()], one * np.nan)
    assert truth.compared == 2


# the journal


def loop(**changes: object) -> list[Event[object]]:
    """One piece that went all the way, and what is wrong with it."""
    given = Event(data=FeedbackGiven(query="q", relevant=("a",)), source="/t/1", id="f")
    judged = FeedbackJudged(
        feedback_id="f",
        query="q",
        relevant=("a",),
        irrelevant=(),
        domain="d",
        served=(),
        rouge_score=0.0,
        entropy_delta=0.0,
    )
    clash = LearningEvent(
        feedback_id="f",
        prompt="q",
        rouge_score=0.0,
        entropy_delta=0.0,
        is_breakthrough=False,
        timestamp=given.time,
        reason="novel",
        positives=("a",),
        negatives=(),
        domain="d",
    )
    batch = LearningBatchQueued(batch_id="b", domain="d", events=(clash,))
    task = TrainingRequested(
        task_id="t",
        skill="d",
        domain="d",
        dataset={"digest": "sha256:" + "0" * 64, "rows": 1},  # type: ignore[arg-type]
        base_model={"id": "m", "sha256": "0" * 64},  # type: ignore[arg-type]
        batch_ids=("b",),
    )
    verdict = TrainingRejected(task_id="t", skill="d", reason="no", metrics={})
    found: list[Event[object]] = [given]
    for data in (judged, clash, batch, task, verdict):
        times = changes.get(type(data).__name__, 1)
        assert isinstance(times, int)
        found += [Event(data=data, source="/t/1", id=f"{data.type}{n}") for n in range(times)]
    return found


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        pytest.param({}, [], id="all is well"),
        pytest.param(
            {"FeedbackJudged": 2}, ["1 pieces of feedback were judged twice: f"], id="judged twice"
        ),
        pytest.param(
            {"FeedbackJudged": 0}, ["1 pieces of feedback were never judged: f"], id="unjudged"
        ),
        pytest.param(
            {"LearningBatchQueued": 2}, ["1 clashes are in two batches: f"], id="batched twice"
        ),
        pytest.param(
            {"TrainingRequested": 2},
            ["1 batches are in two tasks: b", "1 tasks were asked for twice: t"],
            id="asked for twice",
        ),
        pytest.param(
            {"TrainingRejected": 2}, ["1 tasks were answered twice: t"], id="answered twice"
        ),
        pytest.param(
            {"TrainingRejected": 0}, ["1 tasks were never answered: t"], id="never answered"
        ),
    ],
)
async def test_the_journal_is_audited(changes: dict[str, int], broken: list[str]) -> None:
    async with await bus.connect("memory://books", source="/t/1") as connection:
        await connection.publish(*loop(**changes))
        books = await read_books(connection)
        assert faults_of(books, ["f"], ["f"]) == broken
        assert faults_of(books, ["f", "g"], ["f", "g"])[0].endswith("are lost: g")
        assert faults_of(books, [], [])[0].endswith("given by nobody: f")


def test_cards_are_published_and_installed_once_with_versions_that_count_up() -> None:
    def told(*cards: tuple[str, int]) -> list[object]:
        return [
            SimpleNamespace(
                id=digest,
                data=SimpleNamespace(
                    card=SimpleNamespace(name="d", version=number, digest=digest), task_id=digest
                ),
            )
            for digest, number in cards
        ]

    events = defaultdict(list)
    books = Books(events)  # type: ignore[arg-type]
    books.published = told(("x", 1), ("y", 3))  # type: ignore[assignment]
    books.installed = told(("x", 1), ("x", 1))  # type: ignore[assignment]
    books.tasks = [  # type: ignore[assignment]
        SimpleNamespace(data=SimpleNamespace(task_id=it, batch_ids=())) for it in "xy"
    ]
    assert faults_of(books, [], []) == [
        "the versions of d do not count up: [1, 3]",
        "1 published cards were never installed: y",
        "1 cards were installed twice: x",
    ]


def test_feedback_never_repeats_a_piece() -> None:
    given = list(islice(pieces(1), 1000))
    assert len({(it.domain, it.query) for it in given}) == 1000
    assert {it.domain for it in given} == set(DOMAINS)
    assert all(it.relevant not in it.irrelevant for it in given)
