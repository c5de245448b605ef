"""A data set in BANKING77's form is read as it is, or refused with one sentence."""

import json
from pathlib import Path

import pytest

from benchmarks.learning.data import DataError, read


def write(folder: Path, *, train: str, test: str, names: object) -> Path:
    (folder / "train.csv").write_text(train, "utf-8")
    (folder / "test.csv").write_text(test, "utf-8")
    (folder / "categories.json").write_text(json.dumps(names), "utf-8")
    return folder


GOOD = {
    "train": 'text,category\n"Where, then?",card_arrival\nLost it,lost_card\nGone,lost_card\n',
    "test": "text,category\nGone,lost_card\n",
    "names": ["card_arrival", "lost_card"],
}


def test_names_become_passages_and_no_test_query_can_be_feedback(tmp_path: Path) -> None:
    data = read(write(tmp_path, **GOOD))

    assert data.passages == ("card arrival", "lost card")
    assert data.train.texts == ("Where, then?", "Lost it")
    assert (data.test.texts, data.test.own) == (("Gone",), (1,))


def test_a_sample_is_the_same_for_a_seed_and_draws_nothing_twice(tmp_path: Path) -> None:
    train = read(write(tmp_path, **GOOD)).train

    assert train.sample(2, 7) == train.sample(2, 7)
    assert set(train.sample(2, 7).texts) == set(train.texts)
    with pytest.raises(DataError, match="3 pieces of feedback were asked for, there are 2"):
        train.sample(3, 7)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"names": ["card_arrival"]}, "at least two different names"),
        ({"names": {"a": 1}}, "a list of category names"),
        ({"test": "text,category\nGone,stolen\n"}, "unknown category 'stolen'"),
        ({"train": "query,label\nGone,lost_card\n"}, "the columns text and category"),
        ({"test": "text,category\n"}, "holds no queries"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(write(tmp_path, **{**GOOD, **change}))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "nowhere")
