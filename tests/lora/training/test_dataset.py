"""A dataset comes back as it was written, and nothing that contradicts itself gets in or out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.errors import LoRAError
from lora.training.dataset import FEEDBACK, TrainingSet, dataset_digest
from lora.training.errors import DatasetError
from tests.lora.training.synthetic import world


def path_of(folder: Path, digest: str) -> Path:
    return folder / f"{digest.removeprefix('sha256:')}.parquet"


def same(one: TrainingSet, other: TrainingSet) -> bool:
    arrays = ("query_vectors", "groups", "folds", "weights", "passage_vectors")
    arrays += ("label_query", "label_passage", "label_value")
    return (
        all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
        and all(
            getattr(one, name) == getattr(other, name)
            for name in ("queries", "passages", "passage_sources", "label_source")
        )
        and dict(one.metadata) == dict(other.metadata)
    )


def test_round_trip_is_exact(tmp_path: Path) -> None:
    """Every number, text and metadata entry survives, under the name of its bytes."""
    data = replace(world(), metadata={"domain": "käse", "dropped": "3"})
    digest = data.write(tmp_path)
    file = path_of(tmp_path, digest)
    again = TrainingSet.read(file, digest)
    assert same(data, again)
    assert dataset_digest(file) == digest
    assert again.write(tmp_path) == digest
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text(max_size=20).filter(lambda t: t.isprintable()), max_size=6),
    values=st.lists(st.floats(0, 1, width=32), max_size=8),
    dim=st.integers(1, 5),
)
def test_any_contents_round_trip(
    texts: list[str], values: list[float], dim: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Empty sets, odd texts and soft values are all datasets."""
    folder = tmp_path_factory.mktemp("sets")
    count = len(texts)
    labels = [(0, 0, value, "teacher") for value in values] if count else []
    data = TrainingSet.build(
        queries=texts,
        query_vectors=np.ones((count, dim)),
        groups=np.arange(count),
        folds=np.arange(count) % 5,
        passages=texts[:1],
        passage_vectors=np.ones((len(texts[:1]), dim)),
        labels=labels,
        metadata=dict.fromkeys(texts, "x"),
    )
    digest = data.write(folder)
    assert same(data, TrainingSet.read(path_of(folder, digest), digest))


def test_arrays_are_frozen() -> None:
    """What was checked once cannot change under its reader."""
    data = world(queries=10)
    with pytest.raises(ValueError, match="read-only"):
        data.query_vectors[0, 0] = 1.0


def test_real_queries_have_a_relevant_passage_of_a_person() -> None:
    """Mined and taught labels make no query real; nor does an irrelevant one."""
    data = TrainingSet.build(
        queries=["a", "b", "c"],
        query_vectors=np.eye(3),
        groups=[1, 2, 3],
        folds=[1, 2, 3],
        passages=["p"],
        passage_vectors=np.ones((1, 3)),
        labels=[(0, 0, 1.0, FEEDBACK), (1, 0, 1.0, "openai"), (2, 0, 0.0, FEEDBACK)],
    )
    assert data.real.tolist() == [True, False, False]
    assert data.sources() == {FEEDBACK: 2, "openai": 1}
    assert data.rows == 7


def test_who_wrote_a_passage_survives_and_what_people_gave_is_written_as_ever(
    tmp_path: Path,
) -> None:
    """A file in which no passage has a source is one of people's passages alone."""
    data = world(queries=10)
    taught = replace(
        data,
        label_source=("openai.grade",) * len(data.label_source),
        passage_sources=(*data.passage_sources[:-1], "openai.answer"),
    )

    files = [path_of(tmp_path, each.write(tmp_path)) for each in (data, taught)]

    assert TrainingSet.read(files[1]).passage_sources == taught.passage_sources
    assert TrainingSet.read(files[1]).known.sum() == len(data.passages) - 1
    plain = pq.read_table(files[0])
    passages = plain.filter(pc.equal(plain.column("kind"), "passage"))
    assert passages.column("source").null_count == len(data.passages)
    assert TrainingSet.read(files[0]).passage_sources == (FEEDBACK,) * len(data.passages)


def test_what_a_person_labelled_is_people_s() -> None:
    data = world(queries=10)
    with pytest.raises(DatasetError, match="not people's"):
        replace(data, passage_sources=("openai",) * len(data.passages))
    with pytest.raises(DatasetError, match="passage_sources should have 12 rows, not 1"):
        replace(data, passage_sources=("openai",))


def test_every_altered_byte_is_noticed(tmp_path: Path) -> None:
    """The digest is checked before the bytes are parsed."""
    digest = world(queries=10).write(tmp_path)
    file = path_of(tmp_path, digest)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(DatasetError, match="should have digest"):
        TrainingSet.read(file, digest)


@pytest.mark.parametrize("cut", [0, 3, 100, -5])
def test_a_broken_file_is_one_clear_error(tmp_path: Path, cut: int) -> None:
    """Truncated or foreign bytes without a digest to compare are refused by the parser's edge."""
    digest = world(queries=10).write(tmp_path)
    file = path_of(tmp_path, digest)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DatasetError, match="not a Parquet file") as refusal:
        TrainingSet.read(file)
    assert isinstance(refusal.value, LoRAError)
    assert refusal.value.__cause__ is not None


def test_other_parquet_is_refused(tmp_path: Path) -> None:
    """A table of someone else's, or with our mark and other columns, is no dataset."""
    file = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(DatasetError, match="not a dataset of format"):
        TrainingSet.read(file)
    marked = pa.table({"a": [1]}).replace_schema_metadata({"consonance.dataset": "1"})
    pq.write_table(marked, file)
    with pytest.raises(DatasetError, match="columns"):
        TrainingSet.read(file)


def test_missing_and_oversized_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot read"):
        TrainingSet.read(tmp_path / "none.parquet")
    with pytest.raises(DatasetError, match="cannot read"):
        dataset_digest(tmp_path / "none.parquet")
    digest = world(queries=10).write(tmp_path)
    with pytest.raises(DatasetError, match="more than 10 allowed"):
        TrainingSet.read(path_of(tmp_path, digest), max_bytes=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": np.full(10, 5)}, "folds should lie in 0 to 4"),
        ({"groups": np.zeros(10)}, "more than one fold"),
        ({"groups": np.zeros(9)}, "groups should have 10 rows"),
        ({"weights": np.full(10, -1.0)}, "negative"),
        ({"query_vectors": np.full((10, 24), np.nan)}, "not finite"),
        ({"query_vectors": np.ones((10, 5))}, "differ in width"),
        ({"query_vectors": np.ones(10)}, "2 axes"),
        ({"query_vectors": "text"}, "not an array"),
        ({"passages": ("one",)}, "passage_vectors should have 1 rows"),
    ],
)
def test_contradictions_are_refused(change: dict[str, object], message: str) -> None:
    """In particular: a query group never lies in two folds, or the gate would judge what it saw."""
    with pytest.raises(DatasetError, match=message):
        replace(world(queries=10), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ((0, 99, 1.0, FEEDBACK), "label_passage points outside"),
        ((-1, 0, 1.0, FEEDBACK), "label_query points outside"),
        ((0, 0, 1.5, FEEDBACK), "label values"),
    ],
)
def test_labels_that_point_nowhere_are_refused(
    label: tuple[int, int, float, str], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        TrainingSet.build(
            queries=["a"],
            query_vectors=np.ones((1, 2)),
            groups=[1],
            folds=[1],
            passages=["p"],
            passage_vectors=np.ones((1, 2)),
            labels=[label],
        )
