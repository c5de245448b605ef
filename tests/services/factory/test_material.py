"""Background and anchors: made once, refused in one sentence."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora.training.background import background_questions
from lora.training.dataset import TrainingSet
from services.factory.errors import AnchorsError
from services.factory.material import anchors, background
from services.runtime.client import FleetClient
from tests.services.factory.fakes import DIM, stage, vector


async def test_the_background_is_embedded_once_per_model(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        client = FleetClient(on.bus)
        file = await background(client, tmp_path, "a" * 64)
        asked = len(on.fleet.texts)
        assert await background(client, tmp_path, "a" * 64) == file
        assert len(on.fleet.texts) == asked == len(background_questions())
        assert await background(client, tmp_path, "b" * 64) != file

    assert np.load(file, allow_pickle=False).shape == (asked, DIM)


async def test_pairs_become_a_dataset_once_and_a_dataset_stays_what_it_is(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.parquet"
    table = {"query": ["a b", "a b", "c"], "passage": ["one", "two", "one"], "more": [1, 2, 3]}
    pq.write_table(pa.table(table), pairs)
    async with stage(tmp_path) as on:
        client = FleetClient(on.bus)
        made = await anchors(client, pairs, tmp_path, "a" * 64)
        asked = len(on.fleet.texts)
        assert await anchors(client, pairs, tmp_path, "a" * 64) == made
        assert await anchors(client, made, tmp_path, "a" * 64) == made
        assert len(on.fleet.texts) == asked

    data = TrainingSet.read(made)
    assert data.queries == ("a b", "c")
    assert data.passages == ("one", "two")
    assert list(zip(data.label_query, data.label_passage, strict=True)) == [(0, 0), (0, 1), (1, 0)]
    np.testing.assert_allclose(data.query_vectors[1], vector("c"), atol=1e-6)


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"query": ["a"]}, "no Parquet file with columns query and passage"),
        ({"query": ["a"], "passage": [""]}, "text in every cell"),
        ({"query": [1], "passage": ["p"]}, "text in every cell"),
    ],
)
async def test_anchors_that_are_none_are_refused(
    tmp_path: Path, columns: dict[str, list[object]], match: str
) -> None:
    file = tmp_path / "pairs.parquet"
    pq.write_table(pa.table(columns), file)
    async with stage(tmp_path) as on:
        with pytest.raises(AnchorsError, match=match):
            await anchors(FleetClient(on.bus), file, tmp_path, "a" * 64)


async def test_anchors_that_are_missing_are_named(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        with pytest.raises(AnchorsError, match=r"nothing\.parquet cannot be read"):
            await anchors(FleetClient(on.bus), tmp_path / "nothing.parquet", tmp_path, "a")
