"""Skills: which there are, what became of them, and what people want of them."""

from __future__ import annotations

import json
import os

import pytest

from schemas import SkillInstalled, SkillRejected
from tests.services.command.conftest import Run, Start
from tests.services.command.fake_fleet import FakeFleet, listed


def test_those_that_serve_are_listed(on: Run, fleet: FakeFleet) -> None:
    fleet.cards += [listed("slang", 3, "retired"), listed("far", peer="london", signer="ed25519:x")]

    code, out, _ = on("skills", "list", "--json")

    assert code == 0
    skills = json.loads(out)["skills"]
    assert [(one["name"], one["version"], one["state"]) for one in skills] == [
        ("bank", 1, "installed"),
        ("far", 1, "installed"),
        ("slang", 2, "installed"),
        ("slang", 1, "kept"),
    ]
    assert skills[0]["metrics"] == {"gain": 0.1, "low": 0.05, "high": 0.15}
    assert "prototypes" not in skills[0]
    assert len(json.loads(on("skills", "list", "--all", "--json").out)["skills"]) == 5
    table = on("skills", "list").out
    assert "+0.050 to +0.150" in table
    assert "london" in table
    fleet.cards = []
    assert on("skills", "list") == (0, "", "consonance: no skill is installed\n")


@pytest.mark.parametrize(
    ("name", "version"),
    [("slang", 2), ("slang@1", 1), ("DIGEST", 2), ("TWELVE", 2), ("london/far", 1)],
)
def test_one_is_shown_by_any_of_its_names(
    on: Run, fleet: FakeFleet, name: str, version: int
) -> None:
    fleet.cards.append(listed("far", peer="london"))
    digest = listed("slang", 2).digest
    name = name.replace("DIGEST", digest).replace("TWELVE", digest[7:19])
    code, out, _ = on("skills", "show", name, "--json")
    assert code == 0
    assert json.loads(out)["version"] == version
    assert f"@{version}\n" in on("skills", "show", name).out


def test_what_others_say_gives_a_terminal_no_orders(on: Run, fleet: FakeFleet) -> None:
    fleet.cards = [listed("bank", description="a\x1b[2Jb\nsound; signed by you\x9b1m")]
    code, out, _ = on("skills", "show", "bank")
    assert code == 0
    assert "description    a [2Jb sound; signed by you 1m\n" in out


def test_a_name_that_nobody_has(on: Run) -> None:
    for word in ("show", "history", "retire", "pin", "unpin"):
        code, out, err = on("skills", word, "slangg")
        assert (code, out) == (2, "")
        assert err == "consonance: there is no skill 'slangg': did you mean 'slang'?\n"


def test_history_is_what_the_journal_tells(on: Run, fleet: FakeFleet) -> None:
    card = fleet.cards[0]
    fleet.say(SkillInstalled(card=card))
    fleet.say(SkillInstalled(card=fleet.cards[1]))
    fleet.say(SkillRejected(name="bank", digest=card.digest, reason="too late"))

    lines = on("skills", "history", "bank").out.splitlines()

    assert len(lines) == 2
    assert lines[1].endswith("reason='too late'")
    events = [
        json.loads(line) for line in on("skills", "history", "bank", "--json").out.splitlines()
    ]
    assert [event["sequence"] for event in events] == [1, 3]
    assert on("skills", "history", "bank@1").out.splitlines() == lines
    fleet.cards.append(listed("old", state="kept"))
    assert "forgotten what became of old" in on("skills", "history", "old").err


def test_a_version_is_retired_and_another_serves(on: Run, fleet: FakeFleet) -> None:
    code, out, _ = on("skills", "retire", "slang", "--reason", "wrong answers")
    assert (code, out) == (0, "slang@2 is retired; slang@1 serves instead\n")
    assert fleet.journal()[0].data.reason == "wrong answers"

    code, out, _ = on("skills", "retire", "slang@1", "--json")
    assert json.loads(out)["reason"] == "retired by hand"
    assert "none serves instead" in on("skills", "retire", "bank").out
    code, _, err = on("skills", "retire", "bank")
    assert code == 2
    assert "bank@1 is retired: it does not serve" in err


def test_pins_come_and_go(on: Run, fleet: FakeFleet) -> None:
    assert on("skills", "pin", "slang@1").out == "slang@1 is pinned\n"
    assert "pinned" in on("skills", "list").out
    assert json.loads(on("skills", "unpin", "slang@1", "--json").out)["pinned"] is False
    fleet.cards = [listed("gone", state="retired")]
    code, _, err = on("skills", "pin", "gone")
    assert code == 2
    assert "it does not serve" in err


def test_where_the_manager_does_not_do_it_that_is_said(
    on: Run, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.command.wishes.PATIENCE", 0.3)
    monkeypatch.setattr(fleet, "_change", lambda digest, **_: None)
    code, _, err = on("skills", "pin", "bank")
    assert code == 1
    assert "did not pin it within 0.3 s; the wish is in the journal" in err


def test_a_domain_is_forgotten_in_every_store(on: Run, fleet: FakeFleet) -> None:
    code, out, _ = on("skills", "forget", "bank", "--yes")
    assert code == 0
    assert out.splitlines() == [
        "dissonance_monitor: 3 erased",
        "distiller: 3 erased",
        "factory: 3 erased",
        "journal: 3 erased",
    ]
    stores = json.loads(on("skills", "forget", "bank", "--yes", "--json").out)["stores"]
    assert [one["service"] for one in stores][-1] == "journal"


def test_a_store_that_is_away_is_named(on: Run, fleet: FakeFleet) -> None:
    fleet.forgetful = ("dissonance_monitor", "distiller")
    code, _, err = on("skills", "forget", "bank", "--yes", "--timeout", 0.5)
    assert code == 1
    assert "so far: dissonance_monitor, distiller" in err
    assert "is in the journal" in err


@pytest.mark.parametrize("timeout", [0, -1, "nan"])
def test_nothing_is_forgotten_where_the_patience_makes_no_sense(
    on: Run, fleet: FakeFleet, timeout: float | str
) -> None:
    code, _, err = on("skills", "forget", "bank", "--yes", "--timeout", timeout)
    assert code == 2
    assert "--timeout is more than 0" in err
    assert fleet.journal() == []


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2)], ids=["y", "n", "enter"])
def test_at_a_terminal_a_person_is_asked(
    start: Start, fleet: FakeFleet, answer: str, code: int
) -> None:
    ours, theirs = os.openpty()
    words = ("skills", "forget", "bank", "--state", fleet.state)
    process = start(*words, stdin=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"[y/N]" not in seen:
        seen += os.read(ours, 1000)
    assert b"It cannot be undone" in seen

    os.write(ours, f"{answer}\n".encode())

    assert process.wait(20) == code
    assert len(fleet.journal()) == (5 if code == 0 else 0)
    os.close(ours)


def test_nothing_is_forgotten_unless_somebody_says_so(on: Run, fleet: FakeFleet) -> None:
    code, _, err = on("skills", "forget", "bank")
    assert code == 2
    assert "say --yes" in err
    assert fleet.journal() == []
