"""Ranks grow with the data, never shrink between versions, and growing changes no vector."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.adapter import HEAD, Adapter
from lora.card import LoRACard
from lora.head import bend
from lora.training.errors import ConfigError
from lora.training.schedule import body_rank, head_rank, padded, scheduled


def _adapter(rank: int, inputs: int = 12, outputs: int = 12, seed: int = 0) -> Adapter:
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(inputs, rank)), generator.normal(size=(rank, outputs))
    return Adapter(a.astype("f4"), b.astype("f4"), rank, 2.5 * rank)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_data_never_means_a_smaller_rank(groups: int, more: int) -> None:
    assert body_rank(groups) <= body_rank(groups + more)
    assert head_rank(groups) <= head_rank(groups + more)


def test_it_does_grow() -> None:
    assert (body_rank(0), head_rank(0)) == (8, 128)
    assert body_rank(20_000) > body_rank(5_000) > body_rank(1_000)
    assert head_rank(20_000) > head_rank(5_000) > head_rank(2_000) > head_rank(1_000)


@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=6))
def test_between_versions_ranks_never_shrink_whatever_the_data_does(sizes: list[int]) -> None:
    before = {"query": _adapter(8), "value": _adapter(8)}
    for groups in sizes:
        ranks = scheduled(body_rank(groups), before, was=8)
        assert all(ranks[name] >= adapter.rank for name, adapter in before.items())
        before = {name: padded(adapter, ranks[name]) for name, adapter in before.items()}


@given(st.integers(1, 6), st.integers(0, 9))
def test_padding_is_the_same_function(rank: int, more: int) -> None:
    adapter = _adapter(rank)
    wide = padded(adapter, rank + more, seed=more)
    assert (wide.rank, wide.scale) == (rank + more, adapter.scale)
    assert np.array_equal(wide.a[:, :rank], adapter.a)
    assert not wide.b[rank:].any()
    vectors = np.random.default_rng(1).normal(size=(9, 12)).astype(np.float32)
    np.testing.assert_allclose(bend(vectors, [wide]), bend(vectors, [adapter]), atol=1e-5)
    # What is new can learn: its half of the product is not zero on both sides.
    assert not more or np.abs(wide.a[:, rank:]).sum() > 0


def test_a_padded_body_gives_the_vectors_of_the_body(tiny) -> None:
    names = [n for n, _ in tiny.module.named_modules() if n.endswith(("query", "value"))]
    body = {name: _adapter(3, 32, 32, seed) for seed, name in enumerate(names)}
    wide = {name: padded(adapter, 8) for name, adapter in body.items()}
    texts = ["quince now", "ocean", "a gate of the castle"]
    found = []
    for modules in (body, wide):
        card = LoRACard(name="x", base_model=tiny.base_model, dim=tiny.dim, modules=modules)
        found.append(tiny.encode_rows(texts, [[card]] * len(texts)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert np.abs(found[0] - tiny.encode(texts)).max() > 1e-2


def test_a_smaller_rank_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not fit into rank 2"):
        padded(_adapter(3), 2)
    assert all(rank == 5 for rank in scheduled(5, {HEAD: _adapter(3)}, was=3).values())
    assert list(itertools.chain(scheduled(5, {}, was=5))) == []


@given(st.lists(st.integers(1, 32), min_size=2, max_size=9, unique=True), st.sampled_from([1, 2]))
def test_ranks_shared_out_under_a_budget_grow_no_faster_than_it(ranks: list[int], times: int):
    before = {str(rank): _adapter(rank, 96, 96) for rank in ranks}
    after = scheduled(8 * times, before, was=8)
    assert list(after.values()) == [times * rank for rank in ranks]
