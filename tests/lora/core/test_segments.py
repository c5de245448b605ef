"""What cards add to a layer: a loop over stretches and a grouped product give the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora.core.attention import Layout, attend, layout_of
from lora.core.segments import Stretch, acting, add, add_grouped
from lora.layer import Segment, Weights

WIDTH, OUT, TOKENS = 16, 24, 40


def weights(seed: int, rank: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(WIDTH, rank, generator=generator)
    return Weights(a, torch.randn(rank, OUT, generator=generator), 0.5 + seed)


@st.composite
def stretches(draw: st.DrawFn) -> list[Stretch]:
    """In order, beside each other or with gaps, of any ranks."""
    cuts = sorted(draw(st.sets(st.integers(0, TOKENS), min_size=2, max_size=9)))
    made = [
        Stretch(start, end, weights(number, draw(st.integers(1, 9))))
        for number, (start, end) in enumerate(itertools.pairwise(cuts))
        if draw(st.booleans())
    ]
    return made or [Stretch(cuts[0], cuts[1], weights(0, 4))]


@given(stretches())
def test_a_grouped_product_is_the_sum_of_the_single_ones(chosen: list[Stretch]) -> None:
    x = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(3))
    wanted, found = torch.ones(TOKENS, OUT), torch.ones(TOKENS, OUT)
    add(wanted, x, chosen)
    add_grouped(found, x, chosen)
    assert torch.allclose(found, wanted, atol=1e-3, rtol=1e-3)
    untouched = np.ones(TOKENS, bool)
    for start, end, _ in chosen:
        untouched[start:end] = False
    assert (found[torch.from_numpy(untouched)] == 1).all()


def test_segments_over_rows_become_stretches_over_tokens() -> None:
    one, two = weights(1, 2), weights(2, 3)
    cards = {"a": {"layer.0": one, "layer.1": two}, "b": {"layer.1": one}}
    found = acting([Segment(0, 2, "a"), Segment(1, 3, "b")], cards, layout_of([3, 5, 2]).offsets)
    assert found == {
        "layer.0": [Stretch(0, 8, one)],
        "layer.1": [Stretch(0, 8, two), Stretch(3, 10, one)],
    }


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12))
def test_a_layout_covers_every_token_once(lengths: list[int]) -> None:
    layout = layout_of(lengths)
    assert layout.offsets == tuple(np.cumsum([0, *lengths]))
    assert sum(group.texts for group in layout.groups) == len(lengths)
    assert [group.start for group in layout.groups][1:] == [
        group.end for group in layout.groups[:-1]
    ]
    assert layout.groups[-1].end == sum(lengths)


@pytest.mark.parametrize("biased", [False, True])
def test_every_text_attends_to_itself_alone(biased: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    lengths, heads = [4, 4, 1, 7], 2
    parts = [torch.randn(sum(lengths), 8, generator=generator) for _ in range(3)]

    def bias(length: int) -> torch.Tensor:
        return torch.arange(heads * length * length).view(heads, length, length) / 10

    chosen = bias if biased else None
    together = attend(*parts, heads, layout_of(lengths), chosen)
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        one: Layout = layout_of([length])
        alone = attend(*(part[rows] for part in parts), heads, one, chosen)
        assert torch.allclose(together[rows], alone, atol=1e-6)
        start += length
