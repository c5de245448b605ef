"""Nodes that learn from each other: what counts as missed, and how all of it is told."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.nodes.__main__ import options_of
from benchmarks.nodes.flapping import ALLOWED, Flapping, leaks
from benchmarks.nodes.lesson import First, Pupil, made_by, matching
from benchmarks.nodes.orphans import Orphan, Refusal
from benchmarks.nodes.receiver import lying
from benchmarks.nodes.run import Federation
from benchmarks.nodes.table import (
    as_json,
    missed,
    show_federation,
    show_flapping,
    show_transfers,
)
from benchmarks.nodes.transfers import Cut, Transfer, Transfers, faults
from lora.card import EXTENSION
from schemas import AppliedSkill, CompletedRow

SKILL = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
WITH = First(0.02, SKILL, None)
WITHOUT = First(2.0, None, "peer_timeout")
WHOLE = Transfer(1000, 1.0, None, 1100, ("a",), ())
FAILED = Transfer(1000, 20.0, "PeerMisbehaved: sender: too slow", 500, (), ())


def federation() -> Federation:
    """One in which all went well."""
    pupil = Pupil(
        "node1",
        np.zeros((2, 3), np.float32),
        before=0.6,
        processes={"router": 7},
        offered_s=0.8,
        first=WITH,
        second=WITH,
        after=0.7,
        routed=0.9,
        named=0.75,
    )
    refused = Refusal(0.01, "unknown_skill")
    orphan = Orphan("node1", [WITH] * 4, 3.0, [WITH] * 2, [WITH] * 2, [refused] * 2, 0.7, 0.9)
    return Federation(
        nodes=2,
        card="banking@2",
        card_bytes=400_000,
        matching=90,
        digest=SKILL,
        pupils=[pupil],
        orphans=[orphan],
    )


def row(digest: str, score: float) -> CompletedRow:
    return CompletedRow(skills=(AppliedSkill(name="it", version=1, digest=digest, score=score),))


def test_a_federation_in_which_all_went_well_missed_nothing() -> None:
    assert missed(federation()) == []


@pytest.mark.parametrize(
    ("of", "field", "value", "says"),
    [
        ("pupils", "first", WITHOUT, r"its first question: 1 of 1 .*peer_timeout"),
        ("pupils", "first", First(0.1, OTHER, None), "another skill answered"),
        ("pupils", "first", None, "it was not asked"),
        ("pupils", "offered_s", None, "never heard of the skill"),
        ("pupils", "restarted", ("router",), "restarted router"),
        ("pupils", "named", 0.6, "no better"),
        ("orphans", "at_once", [WITH, WITHOUT], "as the learner died: 1 of 2"),
        ("orphans", "later", [WITHOUT], "without the learner"),
        ("orphans", "restarted", [WITHOUT], "its router restarted"),
        ("orphans", "left_s", None, "did not notice"),
        ("orphans", "newer", [Refusal(0.1, None)], "did not refuse"),
        ("orphans", "newer", [Refusal(2.0, "unknown_skill")], "waited for a version"),
    ],
)
def test_what_a_node_does_not_do_is_missed_in_one_sentence(
    of: str, field: str, value: object, says: str
) -> None:
    found = federation()
    setattr(getattr(found, of)[0], field, value)

    (told,) = missed(found)

    assert told.startswith("2 nodes: node1")
    assert re.search(says, told)


def test_a_question_needs_the_skill_where_it_is_the_best_and_near_enough_for_a_claim() -> None:
    rows = [row(SKILL, 0.9), row(SKILL, 0.5), row(OTHER, 0.9), CompletedRow(reason="no_skills")]

    assert matching(rows, SKILL, floor=0.6) == [0]
    assert made_by(rows, SKILL) == 0.5


@pytest.mark.parametrize(
    ("transfer", "fault"),
    [
        (WHOLE, None),
        (FAILED, None),
        (replace(WHOLE, left=("x.part",)), "x.part"),
        (replace(WHOLE, whole=()), "is not"),
        (replace(FAILED, whole=("a",)), "is there"),
        (replace(FAILED, error="PeerError: "), "did not say why"),
    ],
)
def test_a_transfer_is_whole_or_fails_in_a_sentence(transfer: Transfer, fault: str | None) -> None:
    assert (transfer.fault is None) == (fault is None)
    assert fault is None or fault in str(transfer.fault)


def test_transfers_that_may_fail_may_not_all_fail_and_cuts_are_resumed() -> None:
    short, long = Cut(1.5, WHOLE, None), Cut(25.0, FAILED, WHOLE)
    good = Transfers("tc netem", 5.0, 200.0, [WHOLE, FAILED], [short, long])
    anew = Cut(1.5, replace(WHOLE, wire=1900), None)

    assert faults(good) == []
    assert "no transfer at all" in faults(replace(good, each=[FAILED]))[0]
    assert "was resumed" in faults(replace(good, cuts=[long]))[0]
    assert "1,900 bytes travelled" in faults(replace(good, cuts=[short, anew]))[0]
    assert "too slow" in faults(replace(good, cuts=[short, replace(long, again=FAILED)]))[0]


def test_what_grows_at_every_turn_is_a_leak_and_what_is_allowed_is_none() -> None:
    before = dict.fromkeys(ALLOWED, 10) | {"peers": 2}
    grown = {kind: 10 + allowed for kind, allowed in ALLOWED.items()} | {"peers": 2}
    found = Flapping(60.0, before=before, after=grown)

    assert leaks(found) == []
    for kind in ALLOWED:
        (told,) = leaks(replace(found, after=grown | {kind: grown[kind] + 1}))
        assert kind in told
    assert "1 of 2 peers" in leaks(replace(found, after=grown | {"peers": 1}))[0]


def test_files_are_whole_where_their_names_are_their_digests(tmp_path: Path) -> None:
    cache, incoming = tmp_path / "cache", tmp_path / "incoming"
    for folder in (cache, incoming):
        folder.mkdir()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (cache / (empty + EXTENSION)).touch()
    (cache / ("0" * 64 + EXTENSION)).touch()
    (incoming / "1.part").touch()

    assert lying(cache, incoming) == {
        "whole": [empty + EXTENSION],
        "broken": ["0" * 64 + EXTENSION],
        "incoming": ["1.part"],
    }


def test_the_tables_tell_all_of_it_and_the_object_is_json() -> None:
    found = federation()
    cuts = [Cut(1.5, WHOLE, None), Cut(25.0, FAILED, WHOLE)]
    carried = Transfers("a relay process", 5.0, 200.0, [WHOLE, FAILED], cuts)
    held = dict.fromkeys(ALLOWED, 11)
    flapped = Flapping(60.0, 60, 20, held, held, held, 4.0)
    paper = io.StringIO()
    console = Console(file=paper, width=160)

    show_federation(found, console)
    show_transfers(carried, console)
    show_flapping(flapped, console)

    told = " ".join(paper.getvalue().split())
    for words in ("with it", "4 of 4", "unknown_skill in 10 ms", "a relay process", "too slow"):
        assert words in told
    assert "resumed (1,100 bytes travelled)" in told
    assert "asked for again: whole" in told
    plain = json.loads(json.dumps(as_json([found], carried, flapped)))
    assert plain["federations"][0]["pupils"][0]["first"]["skill"] == SKILL
    assert "stored" not in plain["federations"][0]["pupils"][0]


def test_options_are_numbers_within_their_limits(capsys: pytest.CaptureFixture[str]) -> None:
    given = options_of(["--data", "x", "--nodes", "0", "--sizes", "64,400"])
    assert (given.counts, given.bytes) == ([], [64 << 10, 400 << 10])
    for words in (["--nodes", "1"], ["--nodes", "two"], ["--sizes", "1"], ["--flap", "-1"]):
        with pytest.raises(SystemExit) as ended:
            options_of(["--data", "x", *words])
        assert ended.value.code == 2
        assert words[0] in capsys.readouterr().err
