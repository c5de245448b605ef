"""Against sentence-transformers: who is held out, who wins in words, both trainings for real."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.learning.data import DataError, DataSet, Queries
from benchmarks.learning.reference import Vectors, training_set
from benchmarks.versus_sentence_transformers import tasks, theirs
from benchmarks.versus_sentence_transformers.ours import learn
from benchmarks.versus_sentence_transformers.run import ROWS, Run
from benchmarks.versus_sentence_transformers.table import as_json, sentences, summary
from demo.domain import Pair
from lora.engine import ArrowEngine
from services.runtime.settings import FactorySettings

WORDS = ("card", "loan", "fee", "rate", "app", "transfer", "refund", "limit")
SAYINGS = (
    "please help with my {}",
    "what about the {} now",
    "{} is wrong",
    "the {}, again",
    "a {}?",
)
DATA = DataSet(
    train=Queries(
        tuple(saying.format(word) for saying in SAYINGS for word in WORDS),
        tuple(index for _ in SAYINGS for index in range(len(WORDS))),
    ),
    test=Queries(tuple(f"tell me of the {word}" for word in WORDS), tuple(range(len(WORDS)))),
    passages=tuple(f"{word} questions" for word in WORDS),
)


@pytest.fixture
def stdlib(monkeypatch: pytest.MonkeyPatch) -> list[Pair]:
    """Forty functions instead of the thousands of a real interpreter."""
    made = [Pair(f"m.f{i}", f"Does the thing number {i}.", f"m.f{i}(x)") for i in range(40)]
    monkeypatch.setattr(tasks, "pairs", lambda: tuple(made))
    return made


def test_functions_are_held_out_whole_and_every_passage_is_a_candidate(stdlib: list[Pair]) -> None:
    data = tasks.task("stdlib", None, "test")

    assert not set(data.train.own) & set(data.test.own)
    assert len(data.train) + len(data.test) == len(data.passages) == len(stdlib)
    for half in (data.train, data.test):
        for text, own in zip(half.texts, half.own, strict=True):
            assert (text, data.passages[own]) == (stdlib[own].query, stdlib[own].passage)


def test_an_internal_split_never_shows_a_held_out_query(stdlib: list[Pair]) -> None:
    whole, inside = (tasks.task("stdlib", None, held) for held in ("test", "internal"))

    assert not set(inside.test.texts) & set(whole.test.texts)
    assert set(inside.train.texts) | set(inside.test.texts) == set(whole.train.texts)
    assert not set(inside.train.texts) & set(inside.test.texts)
    assert inside.test.texts
    assert inside.passages == whole.passages


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DataError, match="no task 'nothing', only banking77, stdlib"):
        tasks.task("nothing", None, "test")
    with pytest.raises(DataError, match="the folder that --data names"):
        tasks.task("banking77", None, "test")


def run_of(seed: int, **first: int) -> Run:
    """A run over 100 queries, of which each row ranks so many first and the others second."""
    made = Run("toy", 256, seed)
    for row in ROWS:
        made.ranks[row] = np.where(np.arange(100) < first.get(row, 50), 1, 2)
    made.theirs = {"chosen": {"passages_s": 1.0, "learning_rate": 1e-4}}
    return made


def test_a_loss_is_said_as_plainly_as_a_win() -> None:
    found = summary([run_of(1, ours=60, theirs_recommended=50, theirs_chosen=80, matrix=55)])
    against_theirs, against_matrix, against_base = sentences(found)

    assert "settings chosen: WE LOSE by 0.200 in recall@1" in against_theirs
    assert "WE LOSE by 0.100 in MRR@10" in against_theirs
    assert "full-rank query matrix: ahead by 0.050 in recall@1" in against_matrix
    assert "base model: ahead by 0.100 in recall@1" in against_base


def test_ours_is_compared_with_the_better_of_theirs() -> None:
    found = summary([run_of(1, theirs_recommended=70, theirs_chosen=40)])

    assert found["better_of_theirs"] == "theirs_recommended"
    assert found["ours_against"]["theirs_recommended"]["recall"]["mean"] == pytest.approx(-0.2)


def test_errors_are_those_of_the_mean_over_seeds_or_over_queries() -> None:
    several = summary([run_of(1, ours=60), run_of(2, ours=70), run_of(3, ours=80)])
    single = summary([run_of(1, ours=60)])

    assert several["rows"]["ours"]["recall"] == pytest.approx({"mean": 0.7, "se": 0.1 / 3**0.5})
    assert single["rows"]["ours"]["recall"]["se"] == pytest.approx((0.6 * 0.4 / 99) ** 0.5)


def test_the_json_is_plain_and_holds_every_row_of_every_run() -> None:
    found = as_json([run_of(1), run_of(2)], {"split": "test"})
    again = msgspec.json.decode(msgspec.json.encode(found))

    assert [set(run["figures"]) for run in again["runs"]] == [set(ROWS)] * 2
    assert again["summaries"][0]["seeds"] == 2


@pytest.mark.timeout(300)
def test_theirs_trains_both_variants_and_picks_what_its_own_fifth_likes_best(
    tiny_folder: Path, tmp_path: Path
) -> None:
    work = theirs.Work(
        queries=list(DATA.train.texts),
        relevant=list(DATA.train.own),
        irrelevant=[[index for index in range(len(WORDS)) if index != o] for o in DATA.train.own],
        passages=list(DATA.passages),
        held_out=list(DATA.test.texts),
        held_out_relevant=list(DATA.test.own),
        model=str(tiny_folder),
        budget_s=0.3,
        threads=1,
        seed=1,
    )
    (tmp_path / theirs.TASK).write_bytes(msgspec.json.encode(work))
    subprocess.run(
        [sys.executable, "-m", theirs.__name__, str(tmp_path)],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    raw = (tmp_path / theirs.RESULT).read_bytes()
    recommended, chosen = msgspec.json.decode(raw, type=list[theirs.Found])

    assert (recommended.variant, chosen.variant) == theirs.VARIANTS
    assert recommended.learning_rate == theirs.Recipe().learning_rate
    assert recommended.steps > 0
    best = max(chosen.tried.values())
    rates = {name.split()[0] for name, score in chosen.tried.items() if score == best}
    assert f"{chosen.learning_rate:g}" in rates
    for found in (recommended, chosen):
        assert len(found.ranks) == len(WORDS)
        assert all(1 <= rank <= len(WORDS) for rank in found.ranks)
        assert found.passages_s > 0


@pytest.mark.timeout(300)
def test_ours_is_the_factorys_child_and_serves_only_what_the_gate_passed(tmp_path: Path) -> None:
    # Given answers that the base model cannot guess
    moved = tuple((own + 3) % len(WORDS) for own in DATA.train.own)
    data = DataSet(Queries(DATA.train.texts, moved), DATA.test, DATA.passages)
    engine = ArrowEngine(device="cpu", threads=1, trainable=False)
    passages, feedback, test = (
        engine.encode(texts) for texts in (data.passages, data.train.texts, data.test.texts)
    )

    # When head and body learn from them
    found = learn(
        tmp_path,
        training_set(data, data.train, Vectors(passages, feedback, test)),
        engine.encode(["how long do eggs boil", "who won the race"]),
        engine.base_model,
        model=None,
        threads=1,
        seed=1,
        factory=FactorySettings(head_time_budget=1.0, body_time_budget=2.0),
    )

    # Then the head passes, and what is served is the last that did
    assert found.head.result.accepted
    assert found.served is not None
    passed = [it.card for it in (found.head, found.body) if it.result.accepted]
    assert found.served is passed[-1]
    assert found.body.result.reason
    assert found.seconds == found.head.seconds + found.body.seconds > 0
