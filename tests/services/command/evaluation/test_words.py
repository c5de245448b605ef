"""What people read of an evaluation, and what trec_eval does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from services.command.evaluation.folder import read_folder
from services.command.evaluation.ranking import Ranked
from services.command.evaluation.report import Change, Estimate, Report, Routing, Run
from services.command.evaluation.words import told, trec_file, verdict, write_trec
from services.command.kit import show
from tests.services.command.evaluation.fakes import write_folder


def estimate(difference: float, low: float, high: float, *, proven: bool) -> Estimate:
    return Estimate(
        value=0.5, difference=difference, low=low, high=high, better=9, worse=3, proven=proven
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param(Estimate(value=0.5), "", id="base"),
        pytest.param(estimate(0.1, 0.05, 0.15, proven=True), "better", id="better"),
        pytest.param(estimate(-0.1, -0.15, -0.05, proven=True), "worse", id="worse"),
        pytest.param(
            estimate(0.1, -0.05, 0.15, proven=False), "no difference proven", id="holds zero"
        ),
        pytest.param(
            estimate(0.1, 0.01, 0.15, proven=False), "no difference proven", id="a handful"
        ),
    ],
)
def test_no_more_is_said_than_is_proven(given: Estimate, words: str) -> None:
    assert verdict(given) == words


def text_of(report: Report, capsys: pytest.CaptureFixture[str]) -> str:
    show(told(report))
    return capsys.readouterr().out


REPORT = Report(
    folder="set",
    split="test",
    documents=1234,
    queries=20,
    unanswerable=3,
    model="m",
    k=10,
    runs=(
        Run(
            model="base",
            measures={"ndcg@10": Estimate(value=0.25), "mrr@10": Estimate(value=0.125)},
            routing=Routing(share=0.0, skills={}, reasons={"base_requested": 20}),
        ),
        Run(
            model="auto",
            measures={
                "ndcg@10": estimate(0.25, 0.1, 0.4, proven=True),
                "mrr@10": estimate(0.375, -0.1, 0.5, proven=False),
            },
            routing=Routing(share=0.75, skills={"bank@3": 15}, reasons={"below_threshold": 5}),
            gained=(
                Change(
                    query_id="q7",
                    query="where is\n my " + "card " * 30,
                    before=0.0,
                    after=1.0,
                    rank_before=None,
                    rank_after=1,
                ),
            ),
            lost=(
                Change(
                    query_id="q9", query="fees", before=1.0, after=0.5, rank_before=1, rank_after=3
                ),
            ),
        ),
    ),
    embedded=34,
    seconds=12.3,
    notes=("A note.",),
)


def test_the_table_has_each_measure_of_each_model_and_what_it_is_worth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [" ".join(line.split()) for line in text_of(REPORT, capsys).splitlines()]
    assert lines[0] == (
        "set, split test: 1,234 documents, 20 queries; 3 without a relevant document left out"
    )
    assert "base nDCG@10 0.2500" in lines
    assert "auto nDCG@10 0.5000 +0.2500 +0.1000 to +0.4000 9/3 better" in lines
    assert "MRR@10 0.5000 +0.3750 -0.1000 to +0.5000 9/3 no difference proven" in lines
    assert (
        "auto: 75% of the queries by a skill (bank@3 15); by the base model: below_threshold 5"
        in lines
    )
    assert any(line.startswith("- → 1 q7 where is my card card") for line in lines)
    assert any(line.endswith("…") for line in lines)
    assert "1 → 3 q9 fees" in lines
    assert "Documents: 34 embedded now, 1,200 from the cache. All of it took 12.3 s." in lines
    assert lines[-1] == "A note."


def test_a_markup_sign_in_a_query_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    changed = Change(
        query_id="q", query="[bold]x[/nope]", before=0, after=1, rank_before=None, rank_after=1
    )
    (base, auto) = REPORT.runs
    said = text_of(replace(REPORT, runs=(base, replace(auto, gained=(changed,)))), capsys)
    assert "[bold]x[/nope]" in said


@pytest.mark.parametrize(
    ("model", "count", "name"),
    [
        pytest.param("base", 1, "run.trec", id="alone"),
        pytest.param("auto", 2, "run.auto.trec", id="one of two"),
        pytest.param("berlin/bank@3+slang", 2, "run.berlin-bank@3+slang.trec", id="a peer's"),
        pytest.param("sha256:ab", 2, "run.sha256-ab.trec", id="a digest"),
    ],
)
def test_each_model_has_a_file(model: str, count: int, name: str) -> None:
    assert trec_file(Path("out/run.trec"), model, count) == Path("out") / name


def test_a_run_is_what_trec_eval_reads(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "set", {"a": "x", "b": "y"}, {"q": "z", "r": "z"}, [("q", "a", 1), ("r", "b", 1)]
    )
    ranked = Ranked(np.array([[1, 0], [0, -1]]), np.array([[0.5, 0.25], [-0.1234567, 0.0]]))
    write_trec(tmp_path / "run.trec", "a b", read_folder(folder), ranked)
    assert (tmp_path / "run.trec").read_text() == (
        "q Q0 b 1 0.500000 ab\nq Q0 a 2 0.250000 ab\nr Q0 a 1 -0.123457 ab\n"
    )
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith(".part")] == []
