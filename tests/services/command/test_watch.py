"""Watching the bus: which types, from where, and in which form."""

from __future__ import annotations

import json
import re

import pytest

from schemas import (
    FeedbackGiven,
    LearningBatchRejected,
    SkillRejected,
    TrainingProgressed,
    catalogue,
    decode,
)
from services.command.kinds import kinds_of
from services.command.told import gist
from tests.services.command.conftest import Run, Start
from tests.services.command.fake_fleet import FakeFleet, listed


def fill(fleet: FakeFleet, count: int = 3) -> None:
    for n in range(count):
        fleet.say(FeedbackGiven(query=f"query {n}", relevant=("a", "b"), domain="bank"))
        fleet.say(LearningBatchRejected(batch_id=str(n), reason="too small"))


def test_what_the_journal_has_comes_first_as_whole_events(on: Run, fleet: FakeFleet) -> None:
    fill(fleet)

    words = ("--types", "feedback.given", "--after", 0, "--count", 3, "--json")
    code, out, err = on("watch", *words)

    assert (code, err) == (0, "")
    events = [decode(line.encode()) for line in out.splitlines()]
    assert [event.data.query for event in events] == ["query 0", "query 1", "query 2"]
    assert [event.sequence for event in events] == [1, 3, 5]


def test_for_people_a_line_is_the_gist(on: Run, fleet: FakeFleet) -> None:
    fill(fleet, 1)
    _, out, _ = on("watch", "--types", "feedback.*,learning.*", "--after", 0, "--count", 2)
    lines = out.splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d +1 feedback\.given +query='query 0' relevant×2 domain=bank", lines[0]
    )
    assert lines[1].endswith("batch_id=0 reason='too small'")


def test_it_goes_on_with_both_lanes(start: Start, fleet: FakeFleet) -> None:
    process = start("watch", "--json", "--after", 0, "--count", 3, "--state", fleet.state)
    fill(fleet, 1)
    assert process.stdout is not None
    types = [json.loads(process.stdout.readline())["type"] for _ in range(2)]
    assert types == ["feedback.given", "learning.batch_rejected"]

    fleet.say(TrainingProgressed(task_id="t", step=1, steps=9, loss=0.5, phase="head"))

    assert json.loads(process.stdout.readline())["type"] == "training.progressed"
    assert process.wait(20) == 0


def test_heartbeats_are_heard_when_asked_for(on: Run) -> None:
    _, out, _ = on("watch", "--types", "fleet.heartbeat", "--count", 3)
    assert out.count("fleet.heartbeat") == 3


@pytest.mark.parametrize(
    ("types", "why"),
    [
        ("skil.installed", "did you mean skill.installed?"),
        ("nothing.*", "known are adapter.failed"),
        ("encode.completed", "goes from one process to another"),
    ],
)
def test_types_that_are_none(on: Run, types: str, why: str) -> None:
    code, out, err = on("watch", "--types", types)
    assert (code, out) == (2, "")
    assert why in err


def test_patterns_mean_what_can_be_heard() -> None:
    names = [kind.type for kind in kinds_of(["skill.*", "peer.joined,peer.left"])]
    assert "skill.listed" not in names  # addressed
    assert {"skill.installed", "skill.wanted", "peer.left"} <= set(names)
    durable = kinds_of([], durable=True)
    assert {kind.lane.value for kind in durable} == {"durable"}
    assert len(kinds_of([])) == sum(not kind.addressed for kind in catalogue().values())


def test_the_gist_is_one_line_whatever_was_said() -> None:
    card = listed("bank")
    assert "card=bank@1" in gist(SkillRejected(name="x", digest="y", reason="z")) + " card=bank@1"
    told = gist(FeedbackGiven(query="a\nb\x1b[31m" + "c" * 99, relevant=()))
    assert told.isprintable()
    assert len(told) < 80
    assert "prototypes" not in gist(card)
