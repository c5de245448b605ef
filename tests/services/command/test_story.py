"""The story of a batch: everything that belongs to it, in order, whatever it is asked for by."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from schemas import (
    DatasetRef,
    Event,
    FeedbackGiven,
    FeedbackJudged,
    LearningBatchQueued,
    LearningBatchRejected,
    LearningEvent,
    SkillCard,
    SkillInstalled,
    SkillPublished,
    SkillRetired,
    TrainingRejected,
    TrainingRequested,
)
from services.command.story import duration
from tests.services.command.conftest import Run
from tests.services.command.fake_fleet import FakeFleet, listed

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = "a query that is nobody's business"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def said(cause: Event[Any], data: Any, seconds: float, ordinal: int = 0) -> Event[Any]:
    made = cause.derive(data, source="/fake/1", ordinal=ordinal)
    return msgspec.structs.replace(made, time=at(seconds))


class Books:
    """Feedback, batches, tasks and cards as the services say them, one second after another."""

    def __init__(self, fleet: FakeFleet) -> None:
        self.fleet = fleet

    def clash(self, name: str, seconds: float) -> Event[LearningEvent]:
        given = Event(
            data=FeedbackGiven(query=SECRET, relevant=(SECRET,), domain="bank"),
            source="/client/1",
            id=name,
            time=at(seconds),
        )
        judged = FeedbackJudged(
            feedback_id=name,
            query=SECRET,
            relevant=(SECRET,),
            irrelevant=(),
            domain="bank",
            served=(),
            rouge_score=0.1,
            entropy_delta=0.0,
        )
        clash = LearningEvent(
            prompt=SECRET,
            rouge_score=0.1,
            entropy_delta=0.0,
            is_breakthrough=False,
            timestamp=given.time,
            reason="contradiction",
            positives=(SECRET,),
            negatives=(),
            domain="bank",
            feedback_id=name,
        )
        clashed = said(given, clash, seconds + 1)
        self.fleet.publish(given, said(given, judged, seconds + 1), clashed)
        return clashed

    def batch(
        self, name: str, clashes: list[Event[LearningEvent]], seconds: float
    ) -> Event[LearningBatchQueued]:
        data = LearningBatchQueued(
            batch_id=name, domain="bank", events=tuple(clash.data for clash in clashes)
        )
        batch = Event(
            data=data,
            source="/fake/1",
            id=name,
            time=at(seconds),
            correlation_id=name,
            causation_id=clashes[-1].id,
        )
        self.fleet.publish(batch)
        return batch

    def task(
        self, name: str, batches: list[Event[LearningBatchQueued]], seconds: float
    ) -> Event[TrainingRequested]:
        card = listed("bank")
        data = TrainingRequested(
            task_id=name,
            skill="bank",
            domain="bank",
            dataset=DatasetRef(digest=card.digest, rows=96),
            base_model=card.base_model,
            batch_ids=tuple(batch.data.batch_id for batch in batches),
            sources={"batch": 32, "replay": 64},
        )
        event = said(batches[-1], data, seconds)
        self.fleet.publish(event)
        return event

    def refused(
        self, task: Event[TrainingRequested], reason: str, seconds: float, depth: Any = "head"
    ) -> None:
        data = TrainingRejected(
            task_id=task.data.task_id, skill="bank", reason=reason, metrics={}, depth=depth
        )
        self.fleet.publish(said(task, data, seconds, ordinal=1))

    def card(self, task: Event[TrainingRequested], version: int, seconds: float) -> SkillCard:
        """A card that passed the gate and was installed; the fake manager says nothing of it."""
        fields = msgspec.structs.asdict(listed("bank", version))
        card = SkillCard(**{key: fields[key] for key in SkillCard.__struct_fields__})
        data = SkillPublished(
            card=card, origin="here", task_id=task.data.task_id, depth="head", seconds=7.25
        )
        published = said(task, data, seconds)
        self.fleet.publish(published, said(published, SkillInstalled(card=card), seconds + 1))
        return card


@pytest.fixture
def books(fleet: FakeFleet) -> Books:
    return Books(fleet)


@pytest.fixture
def whole(books: Books) -> SkillCard:
    """Another batch before, then the one that is asked for, from feedback to retirement."""
    other = books.batch("0ther-batch", [books.clash("f-other", 0)], 2)
    clashes = [books.clash("f-1", 10), books.clash("f-2", 13)]
    batch = books.batch("abcdef01-batch", clashes, 20)
    superseded = books.task("old-task", [other], 21)
    task = books.task("new-task", [batch], 25)
    books.refused(superseded, "superseded", 25.5)
    card = books.card(task, 1, 40)
    books.refused(task, "body: no better", 160, depth="body")
    retired = SkillRetired(name="bank", version=1, digest=card.digest, reason="it proved worse")
    books.fleet.publish(
        Event(data=retired, source="/fake/1", time=at(40 + 3 * 3600), causation_id="somebody")
    )
    return card


def story(on: Run, *words: object) -> dict[str, Any]:
    code, out, err = on("story", *words, "--json")
    assert (code, err) == (0, "")
    assert SECRET not in out
    found: dict[str, Any] = json.loads(out)
    return found


def types(found: dict[str, Any]) -> list[str]:
    return [one["type"] for one in found["moments"]]


def test_it_tells_all_of_a_batch_in_order_with_the_times_between(on: Run, whole: SkillCard) -> None:
    found = story(on, "abcdef01-batch")

    assert types(found) == [
        *("feedback.given", "feedback.given", "feedback.judged", "learning.batch_queued"),
        *("training.requested", "skill.published", "skill.installed", "training.rejected"),
        "skill.retired",
    ]
    assert [one["after_s"] for one in found["moments"]] == [None, 3, 1, 6, 5, 15, 1, 119, 10680]
    assert (found["domain"], found["batches"], found["tasks"]) == (
        *("bank", ["abcdef01-batch"]),
        ["new-task"],
    )
    assert [one["id"] for one in found["feedback"]] == ["f-1", "f-2"]
    assert found["skills"] == [
        {"name": "bank", "version": 1, "digest": whole.digest, "state": "retired"}
    ]
    assert found["seconds"] == 31, "from the first feedback to the card in service"
    published = found["moments"][5]
    requested = found["moments"][4]
    assert published["correlation_id"] == "abcdef01-batch"
    assert published["causation_id"] == requested["id"]
    assert published["sequence"] > requested["sequence"]


def test_people_read_a_line_for_each_moment(on: Run, whole: SkillCard) -> None:
    code, out, err = on("story", "abcdef01-batch")

    head, blank, *rows = out.splitlines()
    assert (code, err, blank) == (0, "", "")
    assert head == "bank: bank@1 retired; in use 31.0 s after the beginning"
    assert rows[3].endswith("batch queued: 2 clashes of bank")
    assert rows[4].endswith("+5.00 s   training of bank requested: 96 rows (32 batch, 64 replay)")
    assert rows[5].endswith(
        "+15.00 s   head passed the gate, bank@1 published after 7.2 s of training and gate, "
        "gain +0.100 (+0.050 to +0.150)"
    )
    assert rows[8].endswith("+2 h 58 min   bank@1 retired: it proved worse")
    assert SECRET not in out


@pytest.mark.parametrize(
    "asked",
    ["abcdef01", "new-task", "bank", "bank@1", "f-1", "digest", "digits", None],
)
def test_it_is_found_by_whatever_belongs_to_it(
    on: Run, whole: SkillCard, asked: str | None
) -> None:
    names = {"digest": whole.digest, "digits": whole.digest[7:19]}
    words = () if asked is None else (names.get(asked, asked),)
    found = story(on, *words)
    assert found["batches"] == ["abcdef01-batch"]
    assert types(found)[-1] == "skill.retired"


def test_what_a_superseded_task_should_have_learned_the_next_one_does(
    on: Run, whole: SkillCard
) -> None:
    found = story(on, "0ther-batch")
    assert found["tasks"] == ["old-task", "new-task"]
    assert types(found).count("training.requested") == 2
    assert found["skills"][0]["name"] == "bank"


def test_a_batch_of_which_nothing_can_be_learned(on: Run, books: Books) -> None:
    batch = books.batch("a-batch", [books.clash("f", 0)], 2)
    reason = "no clash names a relevant passage\x1b[2J"
    books.fleet.publish(said(batch, LearningBatchRejected(batch_id="a-batch", reason=reason), 3))

    out = on("story", "a-batch").out

    assert out.startswith("bank: nothing was learned from it")
    assert "batch rejected: no clash names a relevant passage" in out
    assert "\x1b" not in out, "nobody's words give the terminal orders"


def test_feedback_that_has_led_to_nothing_yet(on: Run, books: Books) -> None:
    books.clash("f-1", 0)
    found = story(on, "f-1")
    assert found["title"] == "a clash, which waits in the open batch of its domain"
    assert types(found) == ["feedback.given", "feedback.judged"]


def test_lines_of_the_logs_stand_between(on: Run, whole: SkillCard, fleet: FakeFleet) -> None:
    def line(seconds: float, event: str, **fields: Any) -> str:
        head = {"timestamp": at(seconds).isoformat(), "level": "info", "event": event}
        return json.dumps({**head, "service": "encoder", "instance": "2", **fields}) + "\n"

    first = {"skill": "bank", "version": 1, "digest": whole.digest}
    logs = fleet.state / "logs"
    logs.mkdir()
    (logs / "encoder-2.log").write_text(
        line(44, "first answer with a card", id="request-9", **first)
        + line(60, "first answer with a card", id="another", **first)
        + line(41, "skill installed", **first)
        + line(26, "made ready", correlationid="abcdef01-batch", level="debug")
        + line(26, "of another", correlationid="0ther-batch")
        + "no JSON of abcdef01-batch\n"
    )
    (logs / "factory-1.log.1").write_text(
        line(27, "training", correlationid="abcdef01-batch", task="new-task", service="factory")
    )

    found = story(on, "abcdef01-batch")

    told = [one for one in found["moments"] if one["type"] == "log"]
    assert [(one["text"], one["source"]) for one in told] == [
        ("training", "/factory/2"),
        ("first answer with a card: bank@1, id request-9", "/encoder/2"),
    ]
    assert found["seconds"] == 34, "to the first answer, where it is known"
    assert "· first answer with a card: bank@1, id request-9  [encoder-2]" in (
        on("story", "abcdef01-batch").out
    )
    debug = story(on, "abcdef01-batch", "--debug")
    assert "made ready" in [one["text"] for one in debug["moments"]]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("bnak", "nothing in the journal is called 'bnak'; did you mean bank or bank@1?"),
        ("abcdef02-batch", "did you mean abcdef01-batch"),
        ("zzzzzzzz", "consonance skills list has names"),
        ("bank@7", "did you mean bank@1"),
    ],
)
def test_what_is_not_there_is_said_and_what_is_near(
    on: Run, whole: SkillCard, asked: str, why: str
) -> None:
    code, out, err = on("story", asked)
    assert (code, out) == (2, "")
    assert why in err


def test_a_beginning_that_fits_several_is_refused(on: Run, books: Books, whole: SkillCard) -> None:
    books.batch("abcdef01-other", [books.clash("f-9", 300)], 301)
    code, _, err = on("story", "abcdef01")
    assert code == 2
    assert "2 ids begin with abcdef01" in err


def test_an_empty_journal_has_no_story(on: Run) -> None:
    code, _, err = on("story")
    assert code == 2
    assert "no batch was queued yet" in err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "+0.00 s"),
        (59.994, "+59.99 s"),
        (-1.5, "-1.50 s"),
        (200.0, "+3 min 20 s"),
        (7500.0, "+2 h 5 min"),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text
