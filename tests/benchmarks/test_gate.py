"""The gate's benchmark: poison is what it says, intervals are exact, and each seed is fair."""

import csv
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.gate import __main__ as command
from benchmarks.gate.conditions import CONDITIONS, Condition, poisoned
from benchmarks.gate.figures import exact_interval, show, summarised
from benchmarks.gate.material import Material, split
from benchmarks.gate.trial import Trial, trials
from benchmarks.kit.child import THREAD_VARIABLES
from benchmarks.kit.measure import Figures, Gain
from benchmarks.learning.data import DataError, DataSet, Queries
from lora.card import BaseModel
from lora.training.background import background_questions

DIM = 48
CATEGORIES = 12
OWN = tuple(index % CATEGORIES for index in range(60))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Poison


def test_shuffling_moves_labels_and_keeps_how_often_each_is_named() -> None:
    told = poisoned(OWN, "shuffled", CATEGORIES, generator())
    assert sorted(told) == sorted(OWN)
    assert sum(a != b for a, b in zip(told, OWN, strict=True)) > 40
    assert poisoned(OWN, "clean", CATEGORIES, generator()) == OWN


def test_a_fifth_is_at_most_a_fifth() -> None:
    told = poisoned(OWN, "fifth", CATEGORIES, generator())
    assert sorted(told) == sorted(OWN)
    assert 6 <= sum(a != b for a, b in zip(told, OWN, strict=True)) <= 12


def test_consistently_wrong_is_never_right_and_always_the_same() -> None:
    told = poisoned(OWN, "wrong", CATEGORIES, generator())
    assert not any(a == b for a, b in zip(told, OWN, strict=True))
    assert len(set(zip(OWN, told, strict=True))) == CATEGORIES
    assert len(set(told)) == CATEGORIES


# Figures


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        # Tables of the binomial distribution.
        (0, 100, 0.0, 0.036217),
        (5, 100, 0.016432, 0.112835),
        (80, 100, 0.708157, 0.873344),
        (100, 100, 0.963783, 1.0),
        (1, 2, 0.012579, 0.987421),
    ],
)
def test_intervals_are_those_of_clopper_and_pearson(
    count: int, of: int, low: float, high: float
) -> None:
    assert exact_interval(count, of) == pytest.approx((low, high), abs=1e-6)


GOOD, BAD = Figures(0.7, 0.8, 100), Figures(0.69, 0.8, 100)


def trial(seed: int, **given: object) -> Trial:
    made = Trial(condition="c", seed=seed, tried=3, before=Figures(0.695, 0.79, 100), seconds=2.0)
    return replace(made, **given)


def test_a_summary_counts_what_was_published_and_what_it_did() -> None:
    condition = Condition(name="c", title="t", labels="fifth", least=0.5, harmless=True)
    found = summarised(
        condition,
        [
            trial(1, published=True, after=GOOD, gain=Gain(0.01, 0.001, 0.02)),
            trial(2, published=True, after=BAD, gain=Gain(-0.02, -0.03, -0.01), tried=1),
            trial(3, after=GOOD),
            trial(4, skipped=True),
        ],
        sweep=3,
    )
    assert (found.published.count, found.published.of, found.skipped) == (2, 3, 1)
    assert (found.worse.count, found.worse.of, found.surely_worse) == (1, 2, 1)
    assert (found.refused_better.count, found.refused_better.of) == (1, 1)
    assert (found.cut_short, found.holds) == (1, False)
    assert found.recall_gain == pytest.approx(0.0)


def test_a_promise_holds_up_to_its_bound_and_nothing_is_promised_of_nothing() -> None:
    condition = Condition(name="c", title="t", labels="shuffled", most=0.05)
    some = [trial(seed, published=seed < 1) for seed in range(20)]
    assert summarised(condition, some, 3).holds is True
    assert summarised(condition, some[:19], 3).holds is False
    assert summarised(condition, [trial(1, skipped=True)], 3).holds is None
    assert summarised(replace(condition, most=None), some, 3).holds is None


def test_the_table_shows_every_condition() -> None:
    console = Console(width=200, record=True, file=StringIO())
    show(console, [summarised(each, [trial(1)], 3) for each in CONDITIONS], 100, 64)
    text = console.export_text()
    assert all(each.title in text for each in CONDITIONS)


# A world in which every seed can be run in a second


def material() -> Material:
    """Queries lie near their passage, turned a little: there is something to learn."""
    chance = generator(1)
    left, _, right = np.linalg.svd(np.eye(DIM) + 0.25 * chance.normal(size=(DIM, DIM)))
    turn = left @ right  # the rotation nearest to the matrix
    passages = unit(chance.normal(size=(CATEGORIES, DIM)))

    def queries(count: int, name: str) -> tuple[Queries, np.ndarray]:
        own = np.arange(count) % CATEGORIES
        noise = 0.16 * chance.normal(size=(count, DIM))
        texts = tuple(f"{name} {chr(97 + n % 26)} {n}" for n in range(count))
        return Queries(texts, tuple(own.tolist())), unit(passages[own] @ turn + noise)

    train, train_vectors = queries(600, "train")
    test, test_vectors = queries(240, "test")
    return Material(
        data=DataSet(train, test, tuple(f"passage {n}" for n in range(CATEGORIES))),
        base_model=BaseModel("synthetic", "a" * 64),
        passages=unit(passages),
        train=train_vectors,
        held_out=test_vectors,
        background=unit(chance.normal(size=(len(background_questions()), DIM))),
        description=unit(chance.normal(size=(1, DIM)))[0],
    )


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def found() -> dict[str, Trial]:
    return {each.condition: each for each in trials(material(), CONDITIONS, 1, 128)}


def test_right_labels_are_published_and_help_where_nobody_learned(found: dict[str, Trial]) -> None:
    clean = found["clean"]
    assert clean.published
    assert clean.before is not None
    assert clean.after is not None
    assert clean.after.mrr > clean.before.mrr
    assert not clean.worse


def test_shuffled_labels_are_refused_also_where_a_version_is_served(
    found: dict[str, Trial],
) -> None:
    assert not found["shuffled"].published
    assert not found["after-shuffled"].published
    assert not found["shuffled-trickle"].published


def test_the_second_batch_is_compared_with_the_version_of_the_first(
    found: dict[str, Trial],
) -> None:
    first, second = found["clean"], found["after-clean"]
    assert second.before == first.after
    assert second.groups > first.groups


def test_only_anchors_tell_labels_that_are_consistently_wrong(found: dict[str, Trial]) -> None:
    assert found["wrong"].published
    assert found["wrong"].surely_worse
    assert not found["wrong-anchors"].published
    assert "anchor set" in found["wrong-anchors"].reason


def test_what_was_cut_into_files_is_read_back(tmp_path: Path) -> None:
    made = material()
    made.write(tmp_path)
    again = Material.read(tmp_path)
    assert (again.data, again.base_model) == (made.data, made.base_model)
    np.testing.assert_array_equal(again.train, made.train)


def test_development_holds_back_a_part_of_the_training_file() -> None:
    many = Queries(tuple(f"q{n}" for n in range(2500)), (0,) * 2500)
    data = DataSet(many, Queries(("secret",), (0,)), ("a", "b"))
    part = split(data, "train")
    assert (len(part.train), len(part.test)) == (500, 2000)
    assert not set(part.train.texts) & set(part.test.texts)
    assert "secret" not in part.test.texts
    assert split(data, "test") is data
    with pytest.raises(DataError, match="too few"):
        split(DataSet(Queries(("a",), (0,)), data.test, data.passages), "train")


# The command


def write(folder: Path, data: DataSet) -> Path:
    names = [f"category_{n}" for n in range(CATEGORIES)]
    (folder / "categories.json").write_text(json.dumps(names), "utf-8")
    for half, queries in (("train", data.train), ("test", data.test)):
        with (folder / f"{half}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "category"])
            rows.writerows(zip(queries.texts, (names[own] for own in queries.own), strict=True))
    return folder


def test_the_command_tells_figures_and_whether_the_promises_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = material()
    monkeypatch.setattr(command, "embed", lambda data, model, threads: made)
    folder = write(tmp_path, made.data)
    given = ["--data", str(folder), "--seeds", "2", "--feedback", "128", "--jobs", "1"]

    code = command.main([*given, "--conditions", "clean,shuffled", "--json"])

    said = capsys.readouterr().out.strip().splitlines()
    told = json.loads(said[-1])
    assert code == 0
    assert [row["condition"]["name"] for row in told["conditions"]] == ["clean", "shuffled"]
    assert [row["published"]["count"] for row in told["conditions"]] == [2, 0]
    assert len(told["trials"]) == 4
    assert "clean labels" in "\n".join(said)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--conditions", "clean,nonsense"], "names nonsense"),
        (["--seeds", "0"], "at least 1"),
    ],
)
def test_a_wrong_command_line_is_named(
    more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--data", "x", *more])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_more_feedback_than_there_is_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, material().data)
    assert command.main(["--data", str(folder), "--feedback", "400"]) == 2
    assert "more than the 600 training queries" in capsys.readouterr().err


# The command


def test_the_command_judges_in_processes_of_their_own(
    tmp_path: Path,
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in THREAD_VARIABLES:  # it sets them for its children
        monkeypatch.setenv(name, "1")
    names = ["lost_card", "exchange_rate"]
    # The tiny model knows letters alone: texts of few different ones lie apart.
    letters = [chr(97 + n % 26) * 3 + chr(97 + n // 26) * 9 for n in range(300)]
    lines = [f"{text},{names[n % 2]}" for n, text in enumerate(letters)]
    (tmp_path / "train.csv").write_text("\n".join(["text,category", *lines]), "utf-8")
    (tmp_path / "test.csv").write_text("text,category\nlost it,lost_card\n", "utf-8")
    (tmp_path / "categories.json").write_text(json.dumps(names), "utf-8")
    words = ["--data", str(tmp_path), "--seeds", "2", "--feedback", "16", "--conditions", "clean"]
    words += ["--model", str(tiny_folder)]  # there is a long background to embed

    status = command.main([*words, "--json"])

    said = capsys.readouterr()
    assert status in (0, 1), said.err  # a promise may fail on so little
    found = json.loads(said.out.splitlines()[-1])
    assert [trial["seed"] for trial in found["trials"]] == [1, 2]
