"""The loop on one bus and on another: both are run, and each stands in a column of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.kit.measure import Figures
from benchmarks.learning.command import SETTINGS, LearningBenchmark, main, options_of
from benchmarks.learning.data import DataSet
from benchmarks.learning.run import Plan, Run, Say

RECALL = {"zeromq": 0.5, "nats": 0.75}


async def learned(data: DataSet, plan: Plan, size: int, seed: int, say: Say) -> Run:
    """What a fleet on that bus would have come to."""
    found = Figures(RECALL[plan.bus], 0.5, len(data.test))
    return Run(size, seed, bus=plan.bus, final=found, routed=1.0, journal_bytes=1000 * seed)


TOY = LearningBenchmark(name="toy", about="A toy.", sizes="8", settings=SETTINGS, run=learned)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "categories.json").write_text('["card_lost", "top_up"]', "utf-8")
    rows = [f"question {number},{('card_lost', 'top_up')[number % 2]}" for number in range(8)]
    for name in ("train", "test"):
        text = "\n".join(["text,category", *(f"{name} {row}" for row in rows)])
        (tmp_path / f"{name}.csv").write_text(text + "\n", "utf-8")
    return tmp_path


def test_both_buses_learn_the_same_and_are_told_apart(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(folder), "--feedback", "4", "--seeds", "2", "--bus", "both", "--json"]

    assert main(TOY, words) == 0

    said = capsys.readouterr().out
    found = json.loads(said.splitlines()[-1])
    assert [(run["seed"], run["bus"]) for run in found["runs"]] == [
        *((1, "zeromq"), (1, "nats")),
        *((2, "zeromq"), (2, "nats")),
    ]
    recalls = {it["bus"]: it["final"]["recall"]["mean"] for it in found["sizes"]}
    assert recalls == RECALL
    assert {it["journal_bytes"]["mean"] for it in found["sizes"]} == {1500}
    assert "4 pieces, nats" in said


def test_our_broker_carries_where_nobody_says_otherwise() -> None:
    assert options_of(TOY, ["--data", "x"]).bus == "zeromq"
    with pytest.raises(SystemExit):
        options_of(TOY, ["--data", "x", "--bus", "kafka"])
