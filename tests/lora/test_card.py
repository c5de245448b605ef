"""A card states its limits at construction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lora import Adapter, BaseModel
from lora.adapter import DTYPES
from lora.config import LoRAConfig
from lora.errors import CardInvalidError, ConfigError
from tests.lora.cards import adapter, card


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "Über"},
        {"name": "x" * 65},
        {"name": "-x"},
        {"name": "x\n"},
        {"version": 0},
        {"rank": 0},
        {"alpha": float("inf")},
        {"dim": 0},
        {"modules": {}},
        {"modules": {"a/b": adapter(2, 2)}},
        {"modules": {"embedding": adapter(6, 5)}},
        {"prototypes": np.zeros((2, 6), np.float32)},
        {"prototypes": np.ones((2, 5), np.float32)},
        {"prototypes": np.ones((2, 6), np.float64)},
        {"threshold": -1.01},
        {"metrics": {"x": float("nan")}},
        {"created": "2026-13"},
        {"data_digest": "md5:1"},
        {"parents": ["x"]},
        {"applies_to": ()},
        {"applies_to": ("query", "query")},
        {"description": "x" * 10_000},
        {"extra": {"x": "y" * 10_000}},
    ],
)
def test_a_field_outside_its_limits_is_refused(fields) -> None:
    with pytest.raises(CardInvalidError):
        card(**{"name": "x", **fields})


def test_a_card_cannot_be_changed() -> None:
    made = card()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"
    with pytest.raises(TypeError):
        made.modules["x"] = adapter(2, 2)


def test_head_and_body_are_told_apart() -> None:
    made = card(modules={"layer.0.query": adapter(3, 4), "embedding": adapter(6, 6)})
    assert list(made.body) == ["layer.0.query"]
    assert made.head is made.modules["embedding"]
    assert made.target_modules == ("embedding", "layer.0.query")
    assert made.nbytes == sum(one.nbytes for one in made.modules.values())


def test_an_adapter_states_its_shapes() -> None:
    a, b = np.zeros((3, 2), np.float32), np.zeros((2, 5), np.float32)
    assert Adapter(a, b, 2, 4.0).scale == 2.0
    for bad in (
        lambda: Adapter(a, b, 3, 4.0),
        lambda: Adapter(a, b, 2, 0.0),
        lambda: Adapter(a, b.astype(np.float16), 2, 4.0),
        lambda: Adapter(a.astype(np.float64), b.astype(np.float64), 2, 4.0),
        lambda: Adapter(a.ravel(), b, 2, 4.0),
        lambda: Adapter(a, b, 2, 4.0).astype("int4"),
    ):
        with pytest.raises(CardInvalidError):
            bad()


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_factors_are_float32_whatever_is_stored(dtype: str) -> None:
    sound = adapter(6, 5)
    a, b = sound.astype(dtype).factors
    assert a.dtype == b.dtype == np.float32
    step = 0.5 / 127 if dtype == "int8" else 0
    np.testing.assert_allclose(a, sound.a, rtol=2**-7, atol=step * np.abs(sound.a).max())
    np.testing.assert_allclose(b, sound.b, rtol=2**-7, atol=step * np.abs(sound.b).max())


def test_a_base_model_needs_a_whole_digest() -> None:
    with pytest.raises(CardInvalidError):
        BaseModel("x", "123")
    with pytest.raises(CardInvalidError):
        BaseModel("", "ab" * 32)


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": 0},
        {"alpha": 0},
        {"alpha": float("nan")},
        {"target_modules": ()},
        {"dropout": 1.0},
        {"dim": 0},
        {"seed": -1},
        {"rank_pattern": {"query": 0}},
    ],
)
def test_a_configuration_refuses_contradictions_at_once(fields) -> None:
    with pytest.raises(ConfigError):
        LoRAConfig(**fields)


def test_a_configuration_knows_the_exceptions() -> None:
    config = LoRAConfig(rank=8, alpha=16, rank_pattern={"value": 4}, alpha_pattern={"value": 2})
    assert config.scale == 2
    assert (config.rank_of("layer.0.value"), config.alpha_of("layer.0.value")) == (4, 2)
    assert (config.rank_of("layer.0.query"), config.alpha_of("layer.0.query")) == (8, 16)
