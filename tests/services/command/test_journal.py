"""The journal: its end, its stretches, its dead letters, and what is erased from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bus.journal import Entry, Journal
from schemas import Event, FeedbackGiven, LearningBatchRejected, decode, encode
from tests.services.command.conftest import Run, Start
from tests.services.command.fake_fleet import FakeFleet


def fill(fleet: FakeFleet, count: int = 30) -> None:
    for n in range(count):
        domain = "bank" if n % 2 else "other"
        fleet.say(FeedbackGiven(query=f"query {n}", relevant=("a",), domain=domain))
    fleet.say(LearningBatchRejected(batch_id="1", reason="too small"))


def kill(fleet: FakeFleet, count: int) -> None:
    """Let a group fail for good at the first events."""

    async def work() -> None:
        async with fleet.bus.consume("weak", FeedbackGiven) as deliveries:
            for _ in range(count * 5):
                delivery = await deliveries.get(timeout=10)
                await delivery.nack(reason="too heavy for it")

    fleet.do(work)


def sequences(out: str) -> list[int | None]:
    return [decode(line.encode()).sequence for line in out.splitlines()]


def test_the_last_events(on: Run, fleet: FakeFleet) -> None:
    fill(fleet)
    assert sequences(on("journal", "tail", "-n", 3, "--json").out) == [29, 30, 31]
    words = ("--types", "feedback.*", "--number", 2, "--json")
    assert sequences(on("journal", "tail", *words).out) == [29, 30]
    assert len(on("journal", "tail").out.splitlines()) == 20
    assert len(on("journal", "tail", "-n", 99).out.splitlines()) == 31


def test_and_what_comes_after_them(start: Start, fleet: FakeFleet) -> None:
    fill(fleet, 2)
    words = ("-n", 1, "--follow", "--json", "--state", fleet.state)
    process = start("journal", "tail", *words)
    assert process.stdout is not None
    assert decode(process.stdout.readline()).sequence == 3
    fill(fleet, 1)
    assert [decode(process.stdout.readline()).sequence for _ in range(2)] == [4, 5]


def test_a_stretch_of_it(on: Run, fleet: FakeFleet) -> None:
    fill(fleet)
    assert sequences(on("journal", "replay", "--json").out) == list(range(1, 32))
    assert sequences(on("journal", "replay", "--after", 3, "--until", 5, "--json").out) == [4, 5]
    words = ("--types", "learning.batch_rejected", "--json")
    assert sequences(on("journal", "replay", *words).out) == [31]
    assert on("journal", "replay", "--after", 31) == (0, "", "")
    code, _, err = on("journal", "replay", "--types", "training.progressed")
    assert code == 2
    assert "the journal keeps none of it" in err


def test_heads(on: Run, fleet: FakeFleet) -> None:
    assert on("journal", "heads").err == "consonance: the journal is empty\n"
    fill(fleet, 2)
    assert json.loads(on("journal", "heads", "--json").out) == {
        "heads": {"feedback.given": 2, "learning.batch_rejected": 3}
    }
    assert "feedback.given" in on("journal", "heads").out


def test_dead_letters_are_listed_delivered_again_and_dropped(on: Run, fleet: FakeFleet) -> None:
    assert on("journal", "dead", "list").err == "consonance: there are no dead letters\n"
    fill(fleet, 3)
    kill(fleet, 2)

    code, out, _ = on("journal", "dead", "list", "--json")

    first, second = json.loads(out)["dead"]
    assert code == 0
    assert (first["group"], first["reason"]) == ("weak", "too heavy for it")
    assert first["event"]["data"]["query"] == "query 0"
    assert "too heavy for it" in on("journal", "dead", "list", "--group", "weak").out
    assert on("journal", "dead", "list", "--group", "other").err != ""
    # When
    assert on("journal", "dead", "retry", first["id"]).out == "1 to be delivered again\n"
    code, out, err = on("journal", "dead", "drop", second["id"], 999, "--yes", "--json")
    # Then
    assert code == 2
    assert [one["id"] for one in json.loads(out)["dead"]] == [second["id"]]
    assert "there is no dead letter 999" in err
    assert json.loads(on("journal", "dead", "list", "--json").out) == {"dead": []}
    assert on("journal", "dead", "drop", "--all", "--yes").out == "0 dropped\n"


def test_groups_are_listed_and_dropped(on: Run, fleet: FakeFleet) -> None:
    assert on("journal", "groups", "list").err == "consonance: nobody has consumed anything yet\n"
    fill(fleet, 3)
    kill(fleet, 2)

    code, out, _ = on("journal", "groups", "list", "--json")

    (group,) = json.loads(out)["groups"]
    assert code == 0
    assert group.pop("since") is not None
    assert group == {
        "name": "weak",
        "types": ["feedback.given"],
        "behind": 1,
        "more": False,
        "consumed": False,
        "dead": 2,
    }
    assert "weak" in on("journal", "groups", "list").out
    # When
    code, _, err = on("journal", "groups", "drop", "weak")
    assert (code, "with 1 events that it has yet to handle and 2 dead letters" in err) == (2, True)
    assert on("journal", "groups", "drop", "weak", "--yes") == (0, "weak dropped\n", "")
    # Then
    assert json.loads(on("journal", "groups", "list", "--json").out) == {"groups": []}
    assert json.loads(on("journal", "dead", "list", "--json").out) == {"dead": []}
    code, out, err = on("journal", "groups", "drop", "weak", "--yes")
    assert (code, out) == (2, "")
    assert "there is no group 'weak'; there are: none" in err


def test_a_group_that_is_consumed_is_dropped_by_force_alone(on: Run, fleet: FakeFleet) -> None:
    fill(fleet, 1)
    work = fleet.bus.consume("strong", FeedbackGiven, visibility=60)
    fleet.do(work.__aenter__)
    fleet.do(work.get)
    code, out, err = on("journal", "groups", "drop", "strong", "--yes")
    assert (code, out) == (2, "")
    assert "somebody consumes as 'strong': stop that process first, or force it (--force)" in err
    code, out, _ = on("journal", "groups", "drop", "strong", "--yes", "--force", "--json")
    assert (code, json.loads(out)["dropped"]["behind"]) == (0, 1)
    fleet.do(lambda: work.__aexit__(None, None, None))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("dead retry", "say which by their numbers"),
        ("dead retry 1 --all", "say which by their numbers"),
        ("dead drop 1", "say --yes"),
        ("dead retry x", "x"),
        ("erase --types feedback.given --where domain", "--where is FIELD=VALUE"),
        ("erase --types feedback.given --where domain=bank", "say --yes"),
        ("erase --types feedback.given --where domain=a domain=bank --yes", "two values of domain"),
        ("erase --types= --where domain=bank --yes", "--types names no event type"),
        ("erase --types , --where domain=bank --yes", "--types names no event type"),
        ("erase --types feedback.given", "--where"),
        ("erase --where domain=bank", "--types"),
    ],
)
def test_what_cannot_be_undone_is_asked_for_clearly(
    on: Run, fleet: FakeFleet, words: str, why: str
) -> None:
    fill(fleet, 2)
    code, out, err = on("journal", *words.split())
    assert (code, out) == (2, "")
    assert why in err
    assert len(fleet.journal()) == 3


def test_events_are_erased_by_their_data(on: Run, fleet: FakeFleet) -> None:
    fill(fleet, 6)
    words = ("--types", "feedback.given", "--where", "domain=bank", "query=query 1", "--yes")
    assert on("journal", "erase", *words).out == "1 erased\n"
    words = ("--types", "feedback.given", "--where", "domain=bank", "--yes", "--json")
    assert json.loads(on("journal", "erase", *words).out) == {"erased": 2}
    left = [event.data for event in fleet.journal() if event.type == "feedback.given"]
    assert [data.query for data in left] == ["query 0", "query 2", "query 4"]


def test_a_damaged_journal_is_found_and_repaired(run: Run, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    events = [Event(data=FeedbackGiven(query=f"q{n}", relevant=()), source="/a") for n in range(9)]
    journal.begin()
    journal.append([Entry(it.type, it.source, it.id, encode(it)) for it in events])
    journal.commit()
    journal.close()
    assert run("journal", "check", "--state", tmp_path) == (0, "the journal is sound\n", "")
    raw = journal.path.read_bytes() if journal.path else b""
    (tmp_path / "journal.sqlite").write_bytes(raw.replace(b'"query":"q4"', b'"query":"q5"'))

    code, out, err = run("journal", "check", "--state", tmp_path)
    assert (code, out) == (1, "")
    assert "event 5 is not what was written" in err
    code, out, err = run("journal", "repair", "--state", tmp_path)
    assert (code, err) == (0, "")
    assert "8 events and 0 dead letters were kept; 1 event is lost, numbers 5;" in out
    code, out, _ = run("journal", "repair", "--state", tmp_path, "--json")
    assert json.loads(out) == {"repaired": False, "report": None}
    code, _, err = run("journal", "check", "--state", tmp_path / "nowhere")
    assert (code, "there is no state folder" in err) == (1, True)
