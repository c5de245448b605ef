"""Feedback: one piece or many, each journaled once, however often a file is given."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from schemas import FeedbackGiven
from tests.services.command.conftest import Run, Start
from tests.services.command.fake_fleet import FakeFleet

DIGEST = "sha256:" + "ab" * 32


def given(fleet: FakeFleet) -> list[FeedbackGiven]:
    return [event.data for event in fleet.journal() if event.type == "feedback.given"]


def file_of(folder: Path, *lines: object) -> Path:
    file = folder / "given.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("".join(f"{text}\n" for text in texts))
    return file


def piece(n: int, **fields: object) -> dict[str, object]:
    return {"query": f"query {n}", "relevant": [f"passage {n}"], **fields}


def test_one_piece_by_options(on: Run, fleet: FakeFleet) -> None:
    code, out, err = on(
        *("feedback", "--query", "card not here", "--relevant", "Delivery times", "Couriers"),
        *("--irrelevant", "Fees", "--domain", "bank", "--served", DIGEST),
    )

    assert (code, err) == (0, "")
    (event,) = fleet.journal()
    assert out == f"{event.id}\n"
    assert event.data == FeedbackGiven(
        query="card not here",
        relevant=("Delivery times", "Couriers"),
        irrelevant=("Fees",),
        domain="bank",
        served=(DIGEST,),
    )
    # The same once more is another piece: two people may say the same.
    code, out, _ = on("feedback", "--query", "card not here", "--relevant", "Fees", "--json")
    assert json.loads(out) == {"id": fleet.journal()[1].id, "sequence": 2}


def test_many_as_json_lines(on: Run, fleet: FakeFleet, tmp_path: Path) -> None:
    pieces = [piece(n) for n in range(250)]
    file = file_of(tmp_path, *pieces, "", piece(0), piece(250, domain="other", served=[]))

    code, out, _ = on("feedback", file, "--domain", "bank")

    assert (code, out) == (0, "253 lines: 252 journaled\n")
    found = given(fleet)
    assert [one.query for one in found] == [f"query {n}" for n in (*range(250), 0, 250)]
    assert {one.domain for one in found[:-1]} == {"bank"}
    assert (found[-1].domain, found[-1].served) == ("other", ())


def test_a_file_given_again_is_taken_once(on: Run, fleet: FakeFleet, tmp_path: Path) -> None:
    on("feedback", file_of(tmp_path, piece(1), piece(2), piece(1)))
    file = file_of(tmp_path, piece(1), piece(2), piece(1), piece(3), piece(1))

    code, out, _ = on("feedback", file, "--json")

    assert code == 0
    assert json.loads(out) == {"lines": 5, "journaled": 2, "known": 3, "refused": 0}
    assert len(given(fleet)) == 5


def test_what_was_forgotten_is_taken_again_and_that_once(
    on: Run, fleet: FakeFleet, tmp_path: Path
) -> None:
    file = file_of(tmp_path, piece(1, domain="bank"), piece(2, domain="slang"), piece(3))
    on("feedback", file)
    assert on("skills", "forget", "bank", "--yes").code == 0
    fleet.do(lambda: fleet.bus.erase(FeedbackGiven, {"domain": "bank"}))

    code, out, _ = on("feedback", file)

    assert (code, out) == (0, "3 lines: 1 journaled, 2 were known already\n")
    assert [one.query for one in given(fleet)] == ["query 2", "query 3", "query 1"]
    assert on("feedback", file).out == "3 lines: 0 journaled, 3 were known already\n"


def test_refused_lines_are_told_with_their_number_and_the_others_taken(
    on: Run, fleet: FakeFleet, tmp_path: Path
) -> None:
    file = file_of(
        tmp_path,
        piece(1),
        {"query": "a", "relevent": ["x"]},
        "no json",
        {"query": " ", "relevant": ["x"]},
        {"query": "a", "relevant": [" "], "irrelevant": []},
        {"query": "a", "relevant": "x"},
        {"query": "a"},
        piece(2, domain="Not One"),
        piece(3, served=["12"]),
        piece(4, relevant=["x" * 1_000_000, "y" * 100_000]),
        '{"query": "half a pair \\ud800", "relevant": ["x"]}',
        "[" * 5000,
        piece(5),
    )

    code, out, err = on("feedback", file)

    assert code == 2
    assert out == "13 lines: 2 journaled, 11 refused\n"
    assert [one.query for one in given(fleet)] == ["query 1", "query 5"]
    told = dict(line.split(" is refused: ", 1) for line in err.splitlines())
    assert list(told) == [f"consonance: line {n}" for n in (2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 10)]
    reasons = list(told.values())
    assert reasons[0] == "'relevent' is no field of feedback; did you mean relevant?"
    assert "malformed" in reasons[1]
    assert reasons[2] == "query is empty"
    assert "nothing can be learned" in reasons[3]
    assert "$.relevant" in reasons[4]
    assert "`relevant`" in reasons[5]
    assert "'Not One' is no domain" in reasons[6]
    assert "each sha256:" in reasons[7]
    assert "bytes" in told["consonance: line 10"]


def test_a_line_without_an_end_in_sight_ends_it_and_those_before_are_taken(
    on: Run, fleet: FakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.command.feedback.LONGEST", 2000)
    file = file_of(tmp_path, piece(1), piece(2, relevant=["x" * 3000]), piece(3))
    code, out, err = on("feedback", file)
    assert (code, out) == (2, "")
    assert "nothing behind the line at fault is taken; before it, 1 lines: 1 journaled" in err
    assert "line 2 of" in err
    assert [one.query for one in given(fleet)] == ["query 1"]


def test_not_every_refusal_is_told(on: Run, tmp_path: Path) -> None:
    code, out, err = on("feedback", file_of(tmp_path, *["x"] * 1000))
    assert (code, out) == (2, "1,000 lines: 0 journaled, 1,000 refused\n")
    assert len(err.splitlines()) == 21


def test_interrupted_it_says_what_is_journaled_and_goes_on_later(
    start: Start, run: Run, fleet: FakeFleet, tmp_path: Path
) -> None:
    pieces = [piece(n) for n in range(150)]
    process = start("feedback", "--state", fleet.state)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write("".join(json.dumps(one) + "\n" for one in pieces[:120]).encode())
    process.stdin.flush()
    with_all = fleet.do(lambda: _heard(fleet, 120))
    process.send_signal(signal.SIGINT)

    assert with_all
    assert process.wait(20) == 130
    err = process.stderr.read().decode()
    assert re.search(r"120 lines were read and at least 1[02]0 journaled; run it again", err)
    code, out, _ = run("feedback", file_of(tmp_path, *pieces), "--state", fleet.state)
    assert (code, out) == (0, "150 lines: 30 journaled, 120 were known already\n")
    assert [one.query for one in given(fleet)] == [f"query {n}" for n in range(150)]


async def _heard(fleet: FakeFleet, count: int) -> bool:
    async with fleet.bus.watch(FeedbackGiven, after=0) as events:
        for _ in range(count):
            await events.get(timeout=20)
    return True


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("feedback --query q", "nothing can be learned from it"),
        ("feedback --query q --relevant a --domain No", "'No' is no domain"),
        ("feedback --query q --relevant a --served x", "served are digests"),
        ("feedback --relevant a", "go with --query"),
        ("feedback some.jsonl --query q --relevant a", "not both"),
        ("feedback nowhere.jsonl", "nowhere.jsonl cannot be read"),
        ("feedback empty.jsonl", "there is no feedback in it"),
    ],
)
def test_wrong_input_is_one_sentence(
    on: Run, fleet: FakeFleet, tmp_path: Path, words: str, why: str
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    code, out, err = on(*words.split())
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1
    assert fleet.journal() == []
