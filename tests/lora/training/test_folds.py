"""Near-duplicates share a group, a group has one fold, and neither ever changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.training.errors import DatasetError
from lora.training.folds import assign_groups, fold_of, group_of, normalise
from lora.training.gate import unit


def test_spelling_does_not_make_another_group() -> None:
    """Case, punctuation, width and spacing are how one question looks, not what it asks."""
    assert group_of("Where is  my card?!") == group_of("where is my card")
    assert group_of("ＡＴＭ") == group_of("atm")
    assert group_of("???") != group_of("!!!")


def test_ids_are_fixed_for_ever() -> None:
    """They are written into stores and cards: a changed hash would mix the folds."""
    assert group_of("where is my card") == 1825319279886216469
    assert fold_of(1825319279886216469) == 4


@given(st.text())
def test_any_text_has_a_group_and_a_fold(text: str) -> None:
    assert 0 <= group_of(text) < 2**63
    assert fold_of(group_of(text)) in range(5)
    assert normalise(normalise(text)) == normalise(text)


def test_folds_are_even() -> None:
    counts = np.bincount([fold_of(group_of(f"question {n}")) for n in range(5000)], minlength=5)
    assert counts.min() > 900


def test_near_vectors_share_a_group() -> None:
    """A paraphrase with nearly the same vector joins the group of the one before it."""
    generator = np.random.default_rng(0)
    points = unit(generator.normal(size=(3, 16)))
    vectors = np.stack([points[0], points[1], points[0] + 0.01 * points[2], points[2]])
    groups = assign_groups(["a", "b", "c", "d"], vectors)
    assert groups[0] == groups[2] == group_of("a")
    assert len({*groups.tolist()}) == 3


def test_known_queries_never_move_and_are_joined() -> None:
    """A later batch cannot pull a query into another fold."""
    points = unit(np.random.default_rng(0).normal(size=(3, 16)))
    first = assign_groups(["a", "b"], points[:2])
    later = assign_groups(
        ["b!", "near a", "c"],
        np.stack([points[2], points[0], points[2]]),
        known_vectors=points[:2],
        known_groups=first,
    )
    assert later.tolist() == [first[1], first[0], first[1]]


def test_one_batch_or_many_give_the_same_groups() -> None:
    """The order of arrival decides, not how it was cut into batches."""
    generator = np.random.default_rng(3)
    vectors = unit(generator.normal(size=(40, 4)))
    texts = [f"q{n}" for n in range(40)]
    whole = assign_groups(texts, vectors, threshold=0.8)
    parts = np.zeros(0, np.int64)
    for start in range(0, 40, 7):
        more = assign_groups(
            texts[start : start + 7],
            vectors[start : start + 7],
            known_vectors=vectors[:start],
            known_groups=parts,
            threshold=0.8,
        )
        parts = np.concatenate([parts, more])
    assert whole.tolist() == parts.tolist()
    assert len(set(whole.tolist())) < 40


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DatasetError, match="2 queries came with 1"):
        assign_groups(["a", "b"], np.ones((1, 3)))
    with pytest.raises(DatasetError, match="do not fit together"):
        assign_groups(["a"], np.ones((1, 3)), known_vectors=np.ones((2, 3)), known_groups=[1])
    with pytest.raises(DatasetError, match="2 axes"):
        assign_groups(["a"], np.ones(3))
