"""The layer: segments, stacking, identity, gradients, merging."""

from __future__ import annotations

import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from lora import Adapter, LoRAFormat, LoRALinear, layer
from lora.errors import ModuleShapeError, UnknownCardError
from lora.layer import Segment, Weights, as_tensor
from tests.lora.cards import adapter, card


@pytest.fixture
def base() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(12, 7)


def delta(x: torch.Tensor, one: Adapter) -> torch.Tensor:
    a, b = (torch.from_numpy(f.copy()) for f in one.factors)
    return one.scale * (x @ a @ b)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("shape", [(9, 12), (9, 5, 12)])
def test_each_row_gets_its_adapters_and_three_stack(base, grad: bool, shape) -> None:
    layer = LoRALinear(base)
    ones = {key: adapter(12, 7, rank=3, seed=i) for i, key in enumerate("abc")}
    for key, one in ones.items():
        layer.add(key, one)
    layer.plan.segments = (
        Segment(0, 4, "a"),
        Segment(2, 4, "b"),
        Segment(3, 4, "c"),
        Segment(6, 9, "c"),
        Segment(0, 9, "of another layer"),
    )
    x = torch.randn(shape)
    with torch.set_grad_enabled(grad):
        found = layer(x)
    expected = base(x)
    for start, end, key in layer.plan.segments[:4]:
        expected[start:end] = expected[start:end] + delta(x[start:end], ones[key])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found[4:6], base(x)[4:6])


def test_with_no_segment_the_output_is_the_bases_bit_for_bit(base) -> None:
    layer = LoRALinear(base)
    layer.add("a", adapter(12, 7))
    x = torch.randn(3, 4, 12)
    assert torch.equal(layer(x), base(x))
    assert layer.base is base
    assert layer.weight is base.weight
    assert (layer.in_features, layer.out_features, layer.bias is base.bias) == (12, 7, True)


def test_a_fresh_adapter_is_the_identity_and_only_it_gets_gradients(base) -> None:
    layer = LoRALinear(base)
    base.requires_grad_(False)
    a, b = layer.start_training(4, 8.0, generator=torch.Generator().manual_seed(1))
    x = torch.randn(3, 12)
    assert torch.equal(layer(x), base(x))
    bound = 12**-0.5
    assert 0.5 * bound < a.abs().max() <= bound
    layer(x).square().sum().backward()
    assert b.grad.abs().sum() > 0
    assert base.weight.grad is None
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"lora_a", "lora_b"}
    layer.plan.trainable = False
    with torch.no_grad():
        b.fill_(1)
    assert torch.equal(layer(x), base(x))
    layer.stop_training()
    assert layer.trained() is None


def test_the_adapter_trained_serves_the_same_vectors(base) -> None:
    layer = LoRALinear(base)
    start = adapter(12, 7, rank=3, alpha=5.0)
    layer.start_training(8, 16.0, initial=start)
    x = torch.randn(3, 12)
    training = layer(x).detach()
    trained = layer.trained()
    assert (trained.rank, trained.alpha) == (3, 5.0)
    np.testing.assert_array_equal(trained.a, start.a)
    layer.stop_training()
    layer.add("a", trained)
    layer.plan.segments = (Segment(0, 3, "a"),)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), training)


def test_training_on_top_of_cards_reaches_through_them(base) -> None:
    layer = LoRALinear(base)
    layer.add("a", adapter(12, 7))
    layer.plan.segments = (Segment(1, 2, "a"),)
    layer.start_training(2, 2.0)
    x = torch.randn(3, 12, requires_grad=True)
    layer(x).sum().backward()
    one = adapter(12, 7)
    added = torch.from_numpy(one.a @ one.b.sum(axis=1)) * one.scale
    expected = base.weight.sum(0) + added
    torch.testing.assert_close(x.grad[1], expected)
    torch.testing.assert_close(x.grad[0], base.weight.sum(0))


def test_merged_equals_unmerged_and_unmerging_restores_the_very_weight(base) -> None:
    layer = LoRALinear(base)
    weight, before = base.weight, base.weight.detach().clone()
    x = torch.randn(4, 12)
    for i, key in enumerate("ab"):
        layer.add(key, adapter(12, 7, seed=i))
    layer.plan.segments = (Segment(0, 4, "a"), Segment(0, 4, "b"))
    with torch.no_grad():
        expected = layer(x)
        layer.merge("a")
        layer.merge("a")
        torch.testing.assert_close(layer(x), expected)
        layer.merge("b")
        torch.testing.assert_close(layer(x), expected)
        layer.unmerge("b")
        torch.testing.assert_close(layer(x), expected)
        layer.drop("a")
    assert base.weight is weight
    assert torch.equal(base.weight, before)
    layer.unmerge()
    with pytest.raises(UnknownCardError):
        layer.merge("a")


def test_switching_modes_never_merges(base) -> None:
    layer = LoRALinear(base)
    layer.add("a", adapter(12, 7))
    before = base.weight.detach().clone()
    layer.train().eval()
    assert torch.equal(base.weight, before)


def test_an_adapter_that_does_not_fit_is_refused(base) -> None:
    with pytest.raises(ModuleShapeError, match="from 11 to 7, the layer from 12 to 7"):
        LoRALinear(base).add("a", adapter(11, 7))


@pytest.mark.parametrize("older", [False, True], ids=["dlpack", "without"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_weights_are_views_of_the_mapping_that_live_as_long_as_they_are_used(
    tmp_path, monkeypatch: pytest.MonkeyPatch, dtype: str, older: bool
) -> None:
    if older:  # libraries whose DLPack knows of no read-only memory
        monkeypatch.setattr("lora.layer._over", layer._lent)
    stored = adapter(12, 7).astype(dtype)
    LoRAFormat.write(card(modules={"x": stored}), tmp_path / "x.lora.arrow")
    read = LoRAFormat.read(tmp_path / "x.lora.arrow").modules["x"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = as_tensor(read.a)
    assert tensor.data_ptr() == read.a.ctypes.data
    assert str(tensor.dtype) == f"torch.{dtype}"
    del read
    gc.collect()
    values = stored.a if dtype == "int8" else stored.factors[0]
    torch.testing.assert_close(tensor.float(), torch.from_numpy(values.astype(np.float32)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_is_stored_as_int8_enters_a_model_as_its_factors(dtype: torch.dtype) -> None:
    stored = adapter(12, 7).astype("int8")
    weights = Weights.of(stored, like=torch.zeros(1, dtype=dtype))
    for tensor, factor in zip((weights.a, weights.b), stored.factors, strict=True):
        assert tensor.dtype == dtype
        assert torch.equal(tensor, torch.from_numpy(factor).to(dtype))


def test_views_are_made_once_and_go_with_their_adapter() -> None:
    stored = adapter(12, 7)
    like = torch.zeros(1)
    first = Weights.of(stored, like=like)
    assert Weights.of(stored, like=like) is first
    assert first.a.data_ptr() == stored.a.ctypes.data
    narrow = Weights.of(stored, like=like.half())
    assert narrow.a.dtype == torch.float16
    assert Weights.of(stored, like=like) is first
    gone = weakref.ref(first)
    del stored, first
    gc.collect()
    assert gone() is None


def test_a_layer_of_another_dtype_applies_the_card_in_its_own(base) -> None:
    layer = LoRALinear(base.to(torch.bfloat16))
    layer.add("a", adapter(12, 7))
    layer.plan.segments = (Segment(0, 2, "a"),)
    x = torch.randn(3, 12, dtype=torch.bfloat16)
    with torch.no_grad():
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(
        y[:2].float(),
        (base(x)[:2].float() + delta(x[:2].float(), adapter(12, 7))),
        atol=0.05,
        rtol=0.05,
    )
