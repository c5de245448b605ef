"""Top documents: exact, whatever the blocks; ties by id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.command.evaluation import ranking
from services.command.evaluation.ranking import best, places


def split(rows: np.ndarray, cuts: Sequence[int]) -> list[np.ndarray]:
    return [part for part in np.split(rows, sorted({c % len(rows) for c in cuts})) if len(part)]


@given(
    seed=st.integers(0, 1000),
    documents=st.integers(1, 60),
    depth=st.integers(1, 70),
    cuts=st.lists(st.integers(0, 59), max_size=5),
)
def test_it_is_what_sorting_everything_gives(
    seed: int, documents: int, depth: int, cuts: list[int]
) -> None:
    random = np.random.default_rng(seed)
    # A coarse grid in two dimensions: many documents tie.
    stored = random.integers(-2, 3, (documents, 2)).astype(np.float32)
    asked = random.integers(-2, 3, (7, 2)).astype(np.float32)
    ids = [f"d{number}" for number in random.permutation(documents)]
    found = best(asked, split(stored, cuts), places(ids), depth)
    for row, query in enumerate(asked):
        norms = np.linalg.norm(stored, axis=1) * np.linalg.norm(query)
        scores = np.round(stored @ query / np.maximum(norms, 1e-12), 6)
        by_id = sorted(range(documents), key=lambda n: ids[n], reverse=True)
        order = sorted(by_id, key=lambda n: -scores[n])[:depth]
        assert found.documents[row][: len(order)].tolist() == order
        assert found.scores[row][: len(order)] == pytest.approx(scores[order], abs=2e-6)
        assert (found.documents[row][len(order) :] == -1).all()


def test_queries_in_parts_are_as_queries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    asked, stored = random.normal(size=(11, 8)), random.normal(size=(30, 8))
    whole = best(asked, [stored], np.arange(30), 5)
    monkeypatch.setattr(ranking, "QUERIES", 4)
    parts = best(asked, [stored], np.arange(30), 5)
    assert np.array_equal(whole.documents, parts.documents)


def test_lengths_do_not_count_and_a_zero_vector_has_no_score() -> None:
    stored = np.array([[5.0, 0.0], [0.1, 0.001], [0.0, 0.0], [-1.0, 0.0]])
    found = best([[2.0, 0.0]], [stored], np.arange(4), 4)
    assert found.documents.tolist() == [[0, 1, 2, 3]]
    assert found.scores.tolist() == [[1.0, 0.99995, 0.0, -1.0]]


def test_a_document_that_is_no_answer_is_left_out_in_whichever_block_it_is() -> None:
    stored = np.eye(4, dtype=np.float32)
    asked = np.array([[4.0, 3, 2, 1]] * 3, dtype=np.float32)
    found = best(asked, [stored[:2], stored[2:]], np.arange(4), 4, without=[0, 2, -1])
    assert found.documents.tolist() == [[1, 2, 3, -1], [0, 1, 3, -1], [0, 1, 2, 3]]


def test_ids_are_ordered_as_texts_the_greatest_first_as_trec_eval_does() -> None:
    assert places(["b", "a10", "a9", "B"]).tolist() == [0, 2, 1, 3]
