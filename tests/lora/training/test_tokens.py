"""Tokenised once, a batch is what tokenising it anew would give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lora.training.tokens import Tokens

TEXTS = ["a", "bb c", "d e f", "g", "h i j k l", "m n"] * 3
COUNT = np.array([len(text.split()) for text in TEXTS], np.int64)


def prepared(texts: Sequence[str], *, pad: int = 7, left: bool = False) -> dict[str, Any]:
    words = [[ord(word[0]) for word in text.split()] for text in texts]
    width = max(map(len, words))
    gaps = [width - len(row) for row in words]
    pairs = list(zip(words, gaps, strict=True))
    ids = [[pad] * gap + row if left else row + [pad] * gap for row, gap in pairs]
    mask = [[0] * gap + [1] * len(r) if left else [1] * len(r) + [0] * gap for r, gap in pairs]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "modality": "text",
    }


@pytest.mark.parametrize("rows", [[0], [4, 0, 1], list(range(len(TEXTS)))], ids=len)
def test_a_batch_is_the_same_to_the_bit(rows: list[int]) -> None:
    asked = 0

    def prepare(texts: Sequence[str]) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return prepared(texts)

    tokens = Tokens(TEXTS, COUNT, prepare)
    before = asked
    found = tokens.batch(np.array(rows))
    expected = prepared([TEXTS[row] for row in rows])
    assert tokens.kept
    assert asked == before, "nothing is tokenised twice"
    assert found["modality"] == "text"
    for key in ("input_ids", "attention_mask"):
        assert found[key].dtype == expected[key].dtype
        assert torch.equal(found[key], expected[key])


def test_what_is_padded_otherwise_is_prepared_anew() -> None:
    tokens = Tokens(TEXTS, COUNT, lambda texts: prepared(texts, left=True))
    assert not tokens.kept
    found = tokens.batch(np.array([0, 4]))
    assert torch.equal(found["input_ids"], prepared([TEXTS[0], TEXTS[4]], left=True)["input_ids"])


def test_input_of_another_form_is_prepared_anew() -> None:
    def odd(texts: Sequence[str]) -> dict[str, Any]:
        return prepared(texts) | {"positions": torch.zeros(len(texts))}

    assert not Tokens(TEXTS, COUNT, odd).kept
    assert not Tokens(TEXTS, COUNT, lambda texts: {"pixels": torch.zeros(len(texts), 3)}).kept
