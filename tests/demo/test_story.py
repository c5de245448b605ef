"""The demonstration from end to end, against a fleet that is made up."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from demo.__main__ import main
from demo.results import Results
from demo.screen import Screen
from demo.story import Options, Story

PIECES = 64


async def told(stub: Any, **how: Any) -> tuple[Any, Results, str]:
    fleet = stub(pieces=PIECES, **how)
    written = io.StringIO()
    screen = Screen(Console(file=written, width=200))
    results = await Story(Options(feedback=PIECES), screen).tell()
    return fleet, results, written.getvalue()


async def test_every_version_is_measured_and_the_gain_is_real(stub: Callable[..., Any]) -> None:
    fleet, results, _ = await told(stub)

    assert [(it.label, it.skill) for it in results.measured] == [
        ("base", None),
        ("head", "python-stdlib@1"),
        ("body", "python-stdlib@2"),
        ("auto", None),
    ]
    assert [it.routed for it in results.measured] == [0.0, 1.0, 1.0, 1.0]
    assert results.failure() is None
    assert results.final is not None
    assert results.gains(results.final)[1].low > 0
    assert set(results.clock.answering) == {"python-stdlib@1", "python-stdlib@2"}
    assert all(0 <= seconds < 30 for seconds in results.clock.answering.values())
    assert fleet.stopped


async def test_nothing_that_is_held_out_is_ever_given(stub: Callable[..., Any]) -> None:
    fleet, results, _ = await told(stub)

    given = {piece.query for piece in fleet.given}
    held_out = {pair.query for pair in fleet.pairs} - given
    assert len(given) == PIECES
    assert results.base.figures.queries <= len(held_out)
    for piece in fleet.given:
        assert not set(piece.relevant) & set(piece.irrelevant)
        assert 9 <= len(piece.irrelevant) <= 10
        assert (piece.domain, piece.served) == ("python-stdlib", ())


async def test_without_a_terminal_it_tells_the_loop_in_plain_lines(
    stub: Callable[..., Any],
) -> None:
    _, results, text = await told(stub)

    for line in (
        "the first clash (contradiction)",
        "batch 1 is queued: 64 clashes",
        "training asked for",
        "training: head",
        "gate: passed. python-stdlib@1 (head,",
        "gate: passed. python-stdlib@2 (body,",
        "for named use only",
        "python-stdlib@2 (body) answered",
    ):
        assert line in text
    assert "\x1b" not in text
    assert results.judged == results.clashes == PIECES
    assert results.batches == 1


async def test_requests_go_on_while_it_learns(stub: Callable[..., Any]) -> None:
    _, results, _ = await told(stub)
    assert results.asked > 0
    assert results.failed == 0


async def test_the_fleet_is_told_to_learn_soon(stub: Callable[..., Any]) -> None:
    fleet, _, _ = await told(stub)
    assert "batch_max_age = 10.0" in fleet.settings
    assert "quiet_period = 15.0" in fleet.settings


def test_it_exits_0_and_leaves_a_report(
    stub: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(pieces=PIECES)

    assert main(["--feedback", str(PIECES), "--report", str(tmp_path)]) == 0
    assert str(tmp_path / "index.html") in capsys.readouterr().out.replace("\n", "")
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["failure"] is None


def test_it_exits_1_and_says_why_where_the_gate_refuses(
    stub: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(pieces=PIECES, publishes=False)

    assert main(["--feedback", str(PIECES), "--report", str(tmp_path)]) == 1
    assert "nothing was published" in capsys.readouterr().out


def test_it_exits_1_where_the_fleet_dies(
    stub: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = stub(pieces=PIECES, crashes=True)

    assert main(["--feedback", str(PIECES), "--report", str(tmp_path)]) == 1
    assert "the fleet ended by itself" in capsys.readouterr().out
    assert fleet.stopped


def test_too_little_feedback_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--feedback", "5"])
    assert "at least 32" in capsys.readouterr().err
